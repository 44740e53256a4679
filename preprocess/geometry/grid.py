"""The common grid, which gives the images of a data set one image size, one pixel size, or both.

Spacing resamples, size crops or pads, both about the image's center:

- ``pixel_spacing_mm`` alone: pixels become squares of that edge, as many as cover the image's extent, rounded.
- ``image_size`` alone: pixels stay as they are; rows and columns are cut off or added on either side, an odd one cut
  off at the start or added at the end.
- both: resampled, then cropped or padded.

That is what nnU-Net and MONAI do (``Spacing``, then ``ResizeWithPadOrCrop``): neither stretches a heart.

Image and contour are mapped alike, ``target = scale × source + offset``. A mask is not mapped: it is drawn on the
target grid, from the contour's mapped vertices.

Interpolation is linear. Where pixels become larger, the triangle that weights the neighbors is wider by the same factor
(as in Pillow's ``resize`` and ``jax.image.resize``), since single neighbors would alias noise and fine muscle into the
image. So a value is a weighted mean of the image's own, and never leaves their range. Pixels added around an image have
its lowest value, which is air in MRI: 0 may lie outside the range, and repeated edges draw tissue that is not there.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from preprocess.findings import InputError, Reason
from preprocess.geometry import Polygon


@dataclasses.dataclass(frozen=True)
class Grid:
    """The target pixels of one image.

    Attributes:
        source_shape: rows and columns of the image.
        shape: rows and columns of the target.
        spacing_mm: of the target, between rows and between columns; NaN when unknown.
        scale: target pixels per source pixel, along x and y.
        offset: where (0, 0), the source's outer corner, lies on the target, x and y in target pixels.
    """

    source_shape: tuple[int, int]
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    @functools.lru_cache(1024)
    def of(
        cls,
        shape: tuple[int, int],
        source_spacing_mm: tuple[float, float],
        image_size: tuple[int, int] | None,
        pixel_spacing_mm: float | None,
        max_pixels: int,
    ) -> Grid:
        """The grid of one image; the image's own where neither size nor spacing is given. Equal images share it.

        Args:
            shape: rows and columns of the image.
            source_spacing_mm: of the image, between rows and between columns; NaN when unknown.
            image_size: rows and columns, or None for all that the image covers.
            pixel_spacing_mm: edge of the target's pixels, or None for the image's own.
            max_pixels: rows × columns allowed.

        Raises:
            InputError: ``unsupported_image``: Pixel Spacing is needed and missing, or the target is too large.
        """
        spacing_mm = source_spacing_mm if pixel_spacing_mm is None else (pixel_spacing_mm, pixel_spacing_mm)
        scale = np.ones(2)
        if pixel_spacing_mm is not None:
            # An absent spacing is NaN, which is not above 0.
            if not all(edge > 0 for edge in source_spacing_mm):
                raise InputError(
                    Reason.UNSUPPORTED_IMAGE,
                    "Pixel Spacing (0028,0030) is missing or not above 0, and --pixel_spacing_mm needs it",
                    "add the element, leave the pair out with --exclude, or do not pass --pixel_spacing_mm",
                )
            scale = np.array(source_spacing_mm) / pixel_spacing_mm
        covered = np.array(shape) * scale
        # Floats, because a tiny spacing may need more pixels than an integer can hold.
        rows, columns = np.maximum(np.rint(covered), 1) if image_size is None else map(float, image_size)
        if rows * columns > max_pixels:
            raise InputError(
                Reason.UNSUPPORTED_IMAGE,
                f"--pixel_spacing_mm makes it {rows:g} × {columns:g} pixels, at most {max_pixels} expected",
                "pass a larger spacing, or raise --max_image_pixels if this is right",
            )
        offset = (np.array([rows, columns]) - covered) / 2
        # Pixels that keep their size move by whole pixels, and so keep their values.
        offset = np.where(scale == 1, np.floor(offset), offset)
        return cls(
            source_shape=shape,
            shape=(int(rows), int(columns)),
            spacing_mm=spacing_mm,
            scale=(float(scale[1]), float(scale[0])),
            offset=(float(offset[1]), float(offset[0])),
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether these are the image's own pixels."""
        return self.shape == self.source_shape and self.scale == (1.0, 1.0) and self.offset == (0.0, 0.0)

    def place(self, polygon: Polygon) -> Polygon:
        """A contour's vertices on the target, float64 ``(N, 2)``."""
        return np.asarray(polygon * self.scale + self.offset)

    def resample(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The image ``(H, W)`` on the target, of the same dtype: integers are rounded, halves to even."""
        down, down_inside = _resample_rows(pixels.astype(np.float64), self.shape[0], self.scale[1], self.offset[1])
        across, across_inside = _resample_rows(down.T, self.shape[1], self.scale[0], self.offset[0])
        values = np.where(down_inside[:, None] & across_inside, across.T, pixels.min())
        return np.asarray(np.rint(values) if pixels.dtype.kind in "iu" else values).astype(pixels.dtype)


def _resample_rows(
    values: npt.NDArray[np.float64], count: int, scale: float, offset: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Resamples rows of pixels ``(n, m)`` to ``(count, m)``; also returns which of these have their center inside."""
    centers = (np.arange(count) + 0.5 - offset) / scale
    inside = (centers >= 0) & (centers <= len(values))
    # Beyond an edge no neighbor has a weight; values there are not used.
    centers = centers.clip(0, len(values))
    reach = max(1.0, 1 / scale)
    first = np.floor(centers - reach + 0.5).clip(0).astype(np.intp)
    sums, weights = np.zeros((count, values.shape[1])), np.zeros(count)
    # Neighbor by neighbor: a matrix product adds in an order that depends on the processor, and so would the bytes.
    for step in range(math.ceil(min(2 * reach, len(values)))):
        index = first + step
        weight = np.maximum(0, 1 - np.abs(index + 0.5 - centers) / reach)
        weight[index >= len(values)] = 0
        sums += weight[:, None] * values[index.clip(max=len(values) - 1)]
        weights += weight
    return sums / weights[:, None], inside
