"""How well contours lie on their images: mean contrast across them, and how it changes when they are moved."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

MAX_SHIFT = 3
"""The registration curve is taken over moves of the contours by up to this many pixels."""

_STEPS_PER_PIXEL = 4
# One pixel more on each side, for the cubic interpolation.
_REACH = MAX_SHIFT + 1

# Distances of the bands from the contour, in pixels.
_NEAR, _FAR = 1, 3


def bands(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The pixels from 1 to 3 pixels inside the mask's edge, and those from 1 to 3 outside: two bool ``(H, W)``."""
    # The bands can lie only here, so distances are computed only here.
    around = cv2.boundingRect(mask.view(np.uint8))
    reach = _FAR + 1
    rows = slice(max(0, around[1] - reach), around[1] + around[3] + reach)
    columns = slice(max(0, around[0] - reach), around[0] + around[2] + reach)

    def band(pixels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        # From pixel center to pixel center; the edge lies half a pixel before the first pixel beyond it.
        distance = cv2.distanceTransform(pixels.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
        found = np.zeros(mask.shape, np.bool_)
        found[rows, columns] = (distance >= _NEAR) & (distance <= _FAR)
        return found

    return band(mask[rows, columns]), band(~mask[rows, columns])


class Peak(NamedTuple):
    """Where a registration curve is highest; NaN when it is empty.

    Attributes:
        dx, dy: the move, in pixels.
        contrast: the contrast there.
        contrast_unmoved: the contrast of the contours as they are.
    """

    dx: float
    dy: float
    contrast: float
    contrast_unmoved: float


class Registration:
    """How well a study's i-contours lie on its images: mean contrast when all of them are moved by (dx, dy).

    Contrast is the mean value from 1 to 3 pixels inside a contour minus that from 1 to 3 pixels outside. The image is
    shifted and the contour is not drawn again, so that a move changes only the position.
    """

    def __init__(self) -> None:
        self._sum = np.zeros((2 * _REACH + 1, 2 * _REACH + 1))
        self._count = 0

    def add(self, pixels: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]) -> None:
        """Adds an image ``(H, W)`` and the mask of its i-contour."""
        inside, ring = (np.nonzero(band) for band in bands(mask))
        if not inside[0].size or not ring[0].size:
            return
        values = np.pad(pixels, _REACH, mode="edge").astype(np.float64)
        # The image under every move, (9, 9, H, W): a view, from which the pixels of the bands are taken.
        moved = np.lib.stride_tricks.sliding_window_view(values, pixels.shape)
        self._sum += _means(moved, inside) - _means(moved, ring)
        self._count += 1

    def merge(self, other: Registration) -> None:
        """Adds everything that was added to another one."""
        self._sum += other._sum
        self._count += other._count

    def curve(self) -> npt.NDArray[np.float64]:
        """Mean contrast, float64 ``(25, 25)``, rows dy, columns dx, from -3 to 3 pixels in quarters; NaN when empty."""
        if not self._count:
            return np.full((shifts().size, shifts().size), math.nan)
        at = (shifts() + _REACH).astype(np.float32)
        x, y = np.meshgrid(at, at)
        # Interpolation is linear in the image, so the mean may be interpolated instead of every image.
        mean = (self._sum / self._count).astype(np.float32)
        return cv2.remap(mean, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float64)

    def peak(self) -> Peak:
        """The highest point of the curve."""
        curve = self.curve()
        if np.isnan(curve).all():
            return Peak(math.nan, math.nan, math.nan, math.nan)
        row, column = np.unravel_index(curve.argmax(), curve.shape)
        middle = MAX_SHIFT * _STEPS_PER_PIXEL
        return Peak(
            dx=float(shifts()[column]),
            dy=float(shifts()[row]),
            contrast=float(curve[row, column]),
            contrast_unmoved=float(curve[middle, middle]),
        )


def _means(moved: npt.NDArray[np.float64], pixels: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[np.float64]:
    """Mean of an image's pixels, for each of its moves."""
    rows, columns = pixels
    return np.asarray(moved[:, :, rows, columns].mean(axis=2))


def shifts() -> npt.NDArray[np.float64]:
    """The moves along one axis of the registration curve, in pixels."""
    return np.linspace(-MAX_SHIFT, MAX_SHIFT, 2 * MAX_SHIFT * _STEPS_PER_PIXEL + 1)
