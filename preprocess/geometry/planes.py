"""Patient coordinates → pixels of an image (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from preprocess.geometry import Polygon

# Cosines with two decimals are this far from perpendicular, and from length 1.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Plane:
    """Where an image lies in the patient.

    Attributes:
        position_mm: of the center of the first pixel: Image Position (Patient).
        orientation: direction cosines of a row, in which the column index grows, and of a column.
        pixel_spacing_mm: between the centers of two rows, and of two columns, in this order.

    Raises:
        ValueError: the orientation is not two perpendicular unit vectors, or something is not finite.
    """

    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, float]

    def __post_init__(self) -> None:
        axes = np.reshape(self.orientation, (2, 3))
        if not np.allclose(axes @ axes.T, np.eye(2), rtol=0, atol=_TOLERANCE):
            raise ValueError("not two perpendicular unit vectors")
        if not np.isfinite([*self.position_mm, *self.pixel_spacing_mm]).all() or min(self.pixel_spacing_mm) <= 0:
            raise ValueError("not a finite plane")

    def project(self, points: npt.NDArray[np.float64]) -> tuple[Polygon, npt.NDArray[np.float64]]:
        """Projects points on the plane, along its normal.

        Args:
            points: ``(N, 3)``, patient coordinates in mm.

        Returns:
            float64 ``(N, 2)``, columns x and y in pixels, where (0, 0) is the outer corner of the first pixel; and
            float64 ``(N,)``, the distances from the plane in mm, positive along its normal.
        """
        between_rows, between_columns = self.pixel_spacing_mm
        row, column = np.reshape(self.orientation, (2, 3))
        normal = np.cross(row, column)
        # x counts columns, so a step along a row is the distance between columns.
        steps = np.stack([row * between_columns, column * between_rows, normal / np.linalg.norm(normal)], axis=1)
        x, y, distances = np.linalg.solve(steps, (points - self.position_mm).T)
        # Image Position is a center, half a pixel from the corner.
        return np.stack([x, y], axis=1) + 0.5, distances
