"""Pictures of pairs: a crop of the image as PNG; over it, as vectors, contours and the edge of the mask."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.geometry import Polygon

_MARGIN = 14.0

_MOST = 512
"""Rows or columns of a picture. Larger parts of an image are shown smaller."""


class Window(NamedTuple):
    """The edges of what a picture shows, in pixels."""

    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def around(cls, polygons: Sequence[Polygon]) -> Window | None:
        """A square that contains all of the polygons, and a margin; None without polygons."""
        if not polygons:
            return None
        points = np.concatenate(polygons)
        x, y = (points.min(axis=0) + points.max(axis=0)) / 2
        half = float((points.max(axis=0) - points.min(axis=0)).max()) / 2 + _MARGIN
        return cls(left=float(x) - half, right=float(x) + half, top=float(y) - half, bottom=float(y) + half)

    @property
    def view_box(self) -> str:
        """As SVG writes it."""
        return f"{self.left:.2f} {self.top:.2f} {self.right - self.left:.2f} {self.bottom - self.top:.2f}"


class Crop(NamedTuple):
    """A part of an image as a data URI, and the pixel edges it lies between."""

    uri: str
    x: int
    y: int
    width: int
    height: int


class Outline(NamedTuple):
    """A contour as an SVG path, and its class in the style sheet."""

    look: str
    path: str


class Picture(NamedTuple):
    """What a picture shows.

    Attributes:
        view_box: the window.
        crop: the image; None if it cannot be read.
        mask: the mask's edge along the pixels, as an SVG path; empty without a mask.
        outlines: contours.
    """

    view_box: str
    crop: Crop | None
    mask: str
    outlines: Sequence[Outline]


def draw(
    window: Window | None,
    pixels: npt.NDArray[np.generic] | None,
    mask: npt.NDArray[np.generic] | None,
    contours: Iterable[tuple[str, Polygon]],
) -> Picture | None:
    """A picture of an image ``(H, W)``, its mask ``(H, W)`` and contours, each with its class; None if all are missing.

    Args:
        window: what the study's pictures show; a picture shows more where a contour leaves it.
        pixels: the image, or None.
        mask: the mask or label map, or None.
        contours: their classes and their points, in pixels.
    """
    contours = list(contours)
    shown = _holding(window, [polygon for _, polygon in contours])
    if shown is None:
        if pixels is None:
            return None
        shown = Window(0, pixels.shape[1], 0, pixels.shape[0])
    outlines = [Outline(look, f"M{' '.join(f'{x:.2f},{y:.2f}' for x, y in polygon)}Z") for look, polygon in contours]
    return Picture(
        shown.view_box,
        None if pixels is None else _crop(pixels, shown),
        "" if mask is None else _edges(mask),
        outlines,
    )


def _holding(window: Window | None, polygons: Sequence[Polygon]) -> Window | None:
    """The window, or a square around it that also contains the polygons, where they leave it."""
    around = Window.around(polygons)
    if window is None or around is None:
        return window or around
    inner = Window(*(edge + change * _MARGIN for edge, change in zip(around, (1, -1, 1, -1), strict=True)))
    if (
        window.left <= inner.left
        and inner.right <= window.right
        and window.top <= inner.top
        and inner.bottom <= window.bottom
    ):
        return window
    corners = np.array([[window.left, window.top], [window.right, window.bottom]])
    return Window.around([*polygons, corners])


def _crop(pixels: npt.NDArray[np.generic], window: Window) -> Crop | None:
    """The part of an image that a window shows, from the 1st to the 99.5th percentile of its values; None if empty."""
    height, width = pixels.shape
    top, bottom = max(0, int(window.top)), min(height, int(np.ceil(window.bottom)))
    left, right = max(0, int(window.left)), min(width, int(np.ceil(window.right)))
    if top >= bottom or left >= right:
        return None
    part = pixels[top:bottom, left:right].astype(np.float64)
    dark, bright = np.percentile(part, (1, 99.5))
    gray = np.clip((part - dark) / max(bright - dark, 1) * 255, 0, 255).astype(np.uint8)
    if max(gray.shape) > _MOST:
        scale = _MOST / max(gray.shape)
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    content = cv2.imencode(".png", gray)[1].tobytes()
    uri = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return Crop(uri, left, top, right - left, bottom - top)


def _edges(mask: npt.NDArray[np.generic]) -> str:
    """The pixel edges between values, as an SVG path. Pixel (r, c) is the square [c, c+1] × [r, r+1]."""
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])
    flat = [f"M{x},{y}h1" for y, x in zip(rows.tolist(), columns.tolist(), strict=True)]
    rows, columns = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])
    return "".join(flat + [f"M{x},{y}v1" for y, x in zip(rows.tolist(), columns.tolist(), strict=True)])
