"""How a contour lies on its image, and how contours of other size and position would lie there.

In cine SSFP images, blood is bright and muscle is dark, so values fall across an inner contour. Outside an outer
contour is blood, fat, lung or liver, brighter or darker than muscle; but just inside is muscle alone, of even values.
A region whose values are even fits its outline: Chan and Vese, IEEE Trans. Image Process. 10:266, 2001.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.geometry import Polygon
from preprocess.model import ContourKind, ImageHeader

_STEP_MM = 1.35
"""Lengths are counted in pixels of this size, as in the studies that the constants come from."""

_STEP_RANGE = 0.25, 8.0
"""Pixels of other sizes are taken to be wrong."""

_POINTS = 32
"""Of an outline along which contrast is taken."""

_ACROSS = np.array([-2.5, -1.5, 1.5, 2.5])
"""Where contrast across an inner contour is taken, in steps along the outward normal."""

_JUST_INSIDE = np.array([-1.0, -0.5])
"""Where values inside an outer contour are taken; nearer than the inner contour where the wall is thin."""

SCALES = np.array([0.7, 0.85, 1.0, 1.2, 1.4])
MOVES = np.arange(-6.0, 7.0, 2.0)
UNSCALED, UNMOVED = 2, 3
"""Sizes, and moves in steps, at which contrast is measured; and where the contour itself is among them."""

_WINDOW = 40.0
"""How far around a contour's center the range of values is taken, in steps."""

_LARGEST_SIDE = (1 << 15) - 2
"""Of an image that OpenCV samples; no heart is larger."""


class Fit(NamedTuple):
    """How a contour lies on its image, as a share of the range of values around it; higher is better.

    Attributes:
        own: of an inner contour, the contrast: mean value just inside minus that just outside. Of an outer contour,
            minus the standard deviation of the values just inside. NaN when unknown.
        exchanged: the same with x and y exchanged.
        moved: the same for contours of other size and position, float32 ``(scales, dy, dx)``.
    """

    own: float
    exchanged: float
    moved: npt.NDArray[np.float32]


def measure(pixels: npt.NDArray[np.generic], polygon: Polygon, header: ImageHeader, kind: ContourKind) -> Fit:
    """Measures how a contour of a kind lies on its image ``(H, W)``."""
    step = step_px(header.pixel_spacing_mm)
    center = np.array(shape_of(polygon)[1:3])
    points, normals = _outline(polygon)
    # Blood is bright on the screen, where MONOCHROME1 shows low values bright.
    spread = _spread(pixels, center, _WINDOW * step) * (-1 if header.monochrome1 and kind == "i" else 1)
    if not spread:
        return Fit(math.nan, math.nan, np.full((len(SCALES), len(MOVES), len(MOVES)), math.nan, np.float32))
    scale, dy, dx = (one.ravel() for one in np.meshgrid(SCALES, MOVES * step, MOVES * step, indexing="ij"))
    about = (points - center).T[:, None]
    moved = about * scale[:, None] + (center[:, None] + (dx, dy))[:, :, None]
    fit = _falls if kind == "i" else _evenness
    grid = (fit(pixels, moved, normals, step) / spread).reshape(len(SCALES), len(MOVES), len(MOVES))
    exchanged = fit(pixels, points.T[::-1, None], normals[:, ::-1], step) / spread
    return Fit(float(grid[UNSCALED, UNMOVED, UNMOVED]), float(exchanged[0]), grid)


def step_px(pixel_spacing_mm: tuple[float, float]) -> float:
    """Pixels in a step of 1.35 mm; 1 when the spacing is unknown."""
    edge = math.sqrt(math.prod(pixel_spacing_mm))
    return min(max(_STEP_MM / edge, _STEP_RANGE[0]), _STEP_RANGE[1]) if edge > 0 else 1.0


def shape_of(polygon: Polygon) -> tuple[float, float, float, float, float]:
    """Radius of the circle of equal area, center x and y, and elongation, all in pixels.

    The elongation is a vector: its length is the amplitude of the radius that varies as an ellipse's, its direction
    twice the angle of the long axis.
    """
    moments = cv2.moments(polygon.astype(np.float32))
    area = moments["m00"]
    if area == 0:
        return 0.1, *polygon.mean(axis=0), 0.0, 0.0
    radius = math.sqrt(area / math.pi)
    unit = math.pi * radius**3
    return (
        radius,
        moments["m10"] / area,
        moments["m01"] / area,
        (moments["mu20"] - moments["mu02"]) / unit,
        2 * moments["mu11"] / unit,
    )


def signed_area(polygon: Polygon) -> float:
    """Above 0 where the points go around clockwise on the screen."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _outline(polygon: Polygon) -> tuple[Polygon, Polygon]:
    """Points at equal distances along a contour, and the outward normals there: two float64 ``(_POINTS, 2)``."""
    around = polygon if signed_area(polygon) > 0 else polygon[::-1]
    closed = np.vstack([around, around[:1]])
    along = np.concatenate([[0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    at = np.arange(_POINTS) * along[-1] / _POINTS
    points = np.stack([np.interp(at, along, column) for column in closed.T], axis=1)
    dx, dy = (np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)).T
    length = np.maximum(np.hypot(dx, dy), 1e-9)
    return points, np.stack([dy / length, -dx / length], axis=1)


def _falls(
    pixels: npt.NDArray[np.generic], outlines: npt.NDArray[np.float64], normals: npt.NDArray[np.float64], step: float
) -> npt.NDArray[np.float32]:
    """Mean value just inside outlines minus that just outside, float32 ``(n,)``; for arguments see ``_values``."""
    values = _values(pixels, outlines, normals, _ACROSS * step)
    return np.asarray((values[..., _ACROSS < 0] - values[..., _ACROSS > 0]).mean(axis=(1, 2)))


def _evenness(
    pixels: npt.NDArray[np.generic], outlines: npt.NDArray[np.float64], normals: npt.NDArray[np.float64], step: float
) -> npt.NDArray[np.float32]:
    """Minus the standard deviation of values just inside outlines, float32 ``(n,)``; for arguments see ``_values``."""
    return np.asarray(-_values(pixels, outlines, normals, _JUST_INSIDE * step).std(axis=(1, 2)))


def _values(
    pixels: npt.NDArray[np.generic],
    outlines: npt.NDArray[np.float64],
    normals: npt.NDArray[np.float64],
    depths: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Values at some depths along outlines, float32 ``(n, _POINTS, depths)``.

    Args:
        pixels: the image ``(H, W)``.
        outlines: x and y of outlines, ``(2, n, _POINTS)``.
        normals: outward, ``(_POINTS, 2)``.
        depths: in pixels along the normals.
    """
    low, high = outlines.min(axis=(1, 2)), outlines.max(axis=(1, 2))
    margin = np.abs(depths).max()
    part, corner = _part(pixels, low - margin, high + margin)
    # A pixel has its value at its center, half a pixel from its corner.
    starts = (outlines - (corner + 0.5)[:, None, None]).astype(np.float32)
    ways = np.multiply.outer(normals.T, depths).astype(np.float32)
    x, y = ((one[:, :, None] + way).reshape(len(one), -1) for one, way in zip(starts, ways, strict=True))
    values = cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32).reshape(-1, _POINTS, len(depths))


def _spread(pixels: npt.NDArray[np.generic], center: npt.NDArray[np.float64], reach: float) -> float:
    """The range of values around a point without the lowest and highest tenth."""
    low, high = np.percentile(_part(pixels, center - reach, center + reach)[0], (10, 90))
    return float(high - low)


def _part(
    pixels: npt.NDArray[np.generic], first: npt.NDArray[np.float64], last: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The pixels between two corners x and y, at least one, as float32, and the column and row that they start at."""
    rows, columns = pixels.shape
    left, top = (int(one) for one in np.clip(np.floor(first) - 1, 0, (columns - 1, rows - 1)))
    right, bottom = (int(one) for one in np.clip(np.ceil(last) + 1, (left + 1, top + 1), (columns, rows)))
    bottom, right = min(bottom, top + _LARGEST_SIDE), min(right, left + _LARGEST_SIDE)
    return pixels[top:bottom, left:right].astype(np.float32), np.array([left, top])
