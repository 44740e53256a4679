"""The report's pictures: drawn by matplotlib, given as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from preprocess.geometry import Polygon
from preprocess.quality.registration import MAX_SHIFT, Peak

# From Okabe and Ito's palette, which can be distinguished with most kinds of color blindness.
_CONTOUR, _MASK = "#f0e442", "#56b4e9"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")
_ES, _ED = _COLORS[1], _COLORS[0]

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "report",
    # A study's id may contain dollar signs, which matplotlib otherwise takes for formulas.
    "text.parse_math": False,
}


class Window(NamedTuple):
    """The edges of what a picture shows, in pixels."""

    left: float
    right: float
    top: float
    bottom: float


def window_around(polygons: Sequence[Polygon], margin: float = 14.0) -> Window:
    """A square that holds all of a study's contours, and a margin in pixels."""
    points = np.concatenate(polygons)
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    half = float((points.max(axis=0) - points.min(axis=0)).max()) / 2 + margin
    return Window(left=x - half, right=x + half, top=y - half, bottom=y + half)


def pair_picture(pixels: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_], polygon: Polygon, window: Window) -> str:
    """An image ``(H, W)``, windowed, with its contour as a line and its mask's edge along the pixels."""
    rows = slice(max(0, int(window.top)), max(0, int(np.ceil(window.bottom))))
    columns = slice(max(0, int(window.left)), max(0, int(np.ceil(window.right))))
    dark, bright = np.percentile(pixels[rows, columns].astype(np.float64), (1, 99.5))
    figure = Figure(figsize=(3.2, 3.2), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    height, width = pixels.shape
    # Pixel (r, c) is the square [c, c + 1] × [r, r + 1], as in the contours' coordinates.
    axes.imshow(
        pixels,
        cmap="gray",
        vmin=dark,
        vmax=max(bright, dark + 1),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axes.add_collection(LineCollection(_edges(mask), colors=_MASK, linewidths=0.8))
    axes.plot(*np.vstack([polygon, polygon[:1]]).T, color=_CONTOUR, linewidth=1.1)
    axes.set_xlim(window.left, window.right)
    axes.set_ylim(window.bottom, window.top)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": 88})
    return _uri("image/webp", buffer.getvalue())


def _edges(mask: npt.NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The pixel edges between inside and outside, as segments of two points (x, y)."""
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])
    flat = [[(x, y), (x + 1, y)] for y, x in zip(rows.tolist(), columns.tolist(), strict=True)]
    rows, columns = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])
    return flat + [[(x, y), (x, y + 1)] for y, x in zip(rows.tolist(), columns.tolist(), strict=True)]


def areas_by_slice(areas_mm2: Mapping[str, Mapping[int, float]]) -> str:
    """Area inside the contours over slices, a line for end-diastole and one for end-systole."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3), layout="constrained")
        axes = figure.add_subplot()
        for (name, by_slice), color, marker in zip(areas_mm2.items(), (_ED, _ES), "os", strict=False):
            axes.plot(list(by_slice), list(by_slice.values()), color=color, marker=marker, label=name)
        axes.set_xlabel("slice index")
        axes.set_ylabel("area inside the contour, mm²")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


def registration_map(curve: npt.NDArray[np.float64], peak: Peak) -> str:
    """Mean contrast by the contours' move ``(25, 25)``, with its peak and the place where they are not moved."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 3), layout="constrained")
        axes = figure.add_subplot()
        reach = MAX_SHIFT + 0.125
        image = axes.imshow(curve, extent=(-reach, reach, reach, -reach), cmap="viridis")
        axes.plot(0, 0, "o", markerfacecolor="none", markeredgecolor="white", markersize=9, label="not moved")
        axes.plot(peak.dx, peak.dy, "x", color=_COLORS[1], markersize=9, markeredgewidth=2.5, label="peak")
        axes.set_xlabel("contours moved by dx, pixels")
        axes.set_ylabel("dy, pixels")
        figure.colorbar(image, label="mean contrast")
        axes.legend(loc="lower right", fontsize=8, facecolor="#555555", labelcolor="white")
        return _svg(figure)


def area_differences(ours: Sequence[float], naive: Sequence[float]) -> str:
    """Distribution of mask area against polygon area, in percent, for our masks and for a plain ``cv2.fillPoly``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3), layout="constrained")
        axes = figure.add_subplot()
        edges = np.linspace(min(0, *ours, *naive) - 0.5, max(0, *ours, *naive) + 0.5, 50).tolist()
        axes.hist(naive, edges, color=_COLORS[1], alpha=0.75, label="cv2.fillPoly, rounded")
        axes.hist(ours, edges, color=_COLORS[0], alpha=0.85, label="this project")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("mask area against contour area, %")
        axes.set_ylabel("pairs")
        axes.legend(frameon=False)
        return _svg(figure)


def intensities(by_study: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Mean value inside each contour over that in the ring outside it, a color and marker to a study."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3), layout="constrained")
        axes = figure.add_subplot()
        for number, (study_id, values) in enumerate(by_study.items()):
            ring, inside = [pair[0] for pair in values], [pair[1] for pair in values]
            color, marker = _COLORS[number % len(_COLORS)], "os^DvP"[number % 6]
            axes.plot(ring, inside, marker, color=color, alpha=0.8, markersize=4, label=study_id)
        axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
        axes.set_xlabel("mean value in the ring outside")
        axes.set_ylabel("mean value inside")
        if len(by_study) <= 12:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _uri("image/svg+xml", buffer.getvalue())


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
