"""The oracle of the masks: exact areas of polygon and pixel, by shapely."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely


def pixel_areas(inside: shapely.Geometry, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Area of each pixel that lies inside, from 0 to 1: float64 ``(H, W)``; pixel (r, c) is [c, c+1] × [r, r+1]."""
    areas = np.zeros(shape)
    if not inside.is_empty:
        left, top, right, bottom = (int(edge) for edge in inside.bounds)
        x, y = np.meshgrid(np.arange(left, right + 1), np.arange(top, bottom + 1))
        shapely.prepare(inside)
        boxes = shapely.box(x, y, x + 1, y + 1)
        # Only pixels on the boundary need the intersection.
        whole = shapely.contains_properly(inside, boxes)
        found = whole.astype(float)
        found[~whole] = shapely.area(shapely.intersection(inside, boxes[~whole]))
        clipped = found[: shape[0] - top, : shape[1] - left]
        areas[top : top + clipped.shape[0], left : left + clipped.shape[1]] = clipped
    return areas
