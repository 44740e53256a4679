"""The report's plots: drawn by matplotlib as SVG whose ink is the page's, so that it follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from preprocess.quality.registration import MAX_SHIFT, Peak

# Placeholders, which become what the style sheet says.
_INK = "#010203"
_SERIES = [f"#01020{digit}" for digit in "456789"]

_MANY = 2000
"""More points are drawn as pixels: as many SVG elements would take seconds to show."""

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "legend.frameon": False,
    "svg.fonttype": "none",
    # A study's id may contain dollar signs, which matplotlib otherwise takes for formulas.
    "text.parse_math": False,
}


def areas_by_slice(areas_mm2: Mapping[str, Mapping[int, float]]) -> Markup:
    """Area inside the contours over slices, a line for end-diastole and one for end-systole."""
    with _style("areas"):
        figure, axes = _axes(4.2, "slice index", "area inside the contour, mm²")
        for (name, by_slice), color, marker in zip(areas_mm2.items(), _SERIES, "os", strict=False):
            axes.plot(list(by_slice), list(by_slice.values()), color=color, marker=marker, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend()
        return _svg(figure, "Area inside the contours by slice, at end-diastole and end-systole")


def myocardium_by_slice(walls: Mapping[int, tuple[float, float]]) -> Markup:
    """Area in mm² and thickness in mm of the myocardium over slices, each with its own axis."""
    with _style("myocardium"):
        figure, axes = _axes(4.2, "slice index", "area, mm²", right=0.6)
        right = axes.twinx()
        right.set_ylabel("thickness, mm")
        right.spines["right"].set_visible(True)
        values = np.array(list(walls.values()))
        lines = [
            side.plot(list(walls), values[:, column], color=_SERIES[column], marker="os"[column], label=name)[0]
            for column, (side, name) in enumerate([(axes, "area"), (right, "mean thickness")])
        ]
        for side, most in zip((axes, right), values.max(axis=0), strict=True):
            side.set_ylim(bottom=0, top=1.15 * most)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(handles=lines)
        return _svg(figure, "Area and mean thickness of the myocardium by slice, at end-diastole")


def volumes_by_phase(
    volumes_ml: Mapping[int, float], complete: Mapping[int, bool], marked: Mapping[str, int]
) -> Markup:
    """Cavity volume over phases; hollow where slices lack a contour; end-diastole and end-systole are marked."""
    with _style("volumes"):
        figure, axes = _axes(4.2, "phase", "volume inside the contours, ml")
        phases = sorted(volumes_ml)
        axes.plot(phases, [volumes_ml[phase] for phase in phases], color=_SERIES[0])
        for phase in phases:
            fill = _SERIES[0] if complete[phase] else "none"
            axes.plot(phase, volumes_ml[phase], "o", markerfacecolor=fill, markeredgecolor=_SERIES[0], markersize=5)
        for name, phase in marked.items():
            if phase in volumes_ml:
                place = (phase, volumes_ml[phase])
                axes.annotate(name, place, xytext=(0, 8), textcoords="offset points", ha="center")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=max(volumes_ml.values()) * 1.15)
        return _svg(figure, "Volume inside the contours by phase")


def registration_map(curve: npt.NDArray[np.float64], peak: Peak) -> Markup:
    """Mean contrast by the contours' move ``(25, 25)``, with its peak and the place where they are not moved."""
    with _style("registration"):
        figure, axes = _axes(4.2, "contours moved by dx, pixels", "dy, pixels", right=0.5)
        reach = MAX_SHIFT + 0.125
        image = axes.imshow(curve, extent=(-reach, reach, reach, -reach), cmap="viridis")
        axes.plot(0, 0, "o", markerfacecolor="none", markeredgecolor="white", markersize=9, label="not moved")
        axes.plot(peak.dx, peak.dy, "x", color="#d55e00", markersize=9, markeredgewidth=2.5, label="peak")
        figure.colorbar(image, label="mean contrast")
        axes.legend(loc="lower right", fontsize=8, frameon=True, facecolor="#555555", labelcolor="white")
        return _svg(figure, f"Mean contrast by the contours' move; it peaks at dx {peak.dx:+g}, dy {peak.dy:+g} pixels")


def area_differences(ours: Sequence[float], naive: Sequence[float], drawn: str) -> Markup:
    """Distribution of drawn area against polygon area, in percent, for our masks and for a plain ``cv2.fillPoly``.

    Args:
        ours: for each pair.
        naive: the same, for a plain ``cv2.fillPoly``.
        drawn: what was drawn: mask, or blood pool.
    """
    with _style("differences"):
        figure, axes = _axes(5.4, f"{drawn} area against contour area, %", "pairs")
        edges = np.linspace(min(0, *ours, *naive) - 0.5, max(0, *ours, *naive) + 0.5, 50).tolist()
        axes.hist(naive, edges, color=_SERIES[1], alpha=0.75, label="cv2.fillPoly, rounded")
        axes.hist(ours, edges, color=_SERIES[0], alpha=0.85, label="this project")
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.legend()
        return _svg(figure, f"Histogram of {drawn} area against contour area, for this project and for cv2.fillPoly")


def intensities(by_study: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Mean value inside each contour over that in the ring outside it, a color and marker to a study."""
    with _style("intensities"):
        figure, axes = _axes(5.4, "mean value in the ring outside", "mean value inside")
        rasterized = sum(map(len, by_study.values())) > _MANY
        for number, (study_id, values) in enumerate(by_study.items()):
            ring, inside = [pair[0] for pair in values], [pair[1] for pair in values]
            # Pixels keep their color, so it has to do for light and dark.
            color = "#3b8fc4" if rasterized else _SERIES[number % len(_SERIES)]
            marker = "os^DvP"[number % 6]
            axes.plot(
                ring, inside, marker, color=color, alpha=0.8, markersize=4, label=study_id, rasterized=rasterized,
            )  # fmt: skip
        axes.axline((0, 0), slope=1, color=_INK, linewidth=0.8)
        if len(by_study) <= 12:
            axes.legend(fontsize=8)
        return _svg(figure, "Mean value inside each contour over the mean value in the ring outside it, by study")


def _style(name: str) -> AbstractContextManager[None]:
    """A context for a plot whose name differs from those of the other plots of its page."""
    return mpl.rc_context({**_STYLE, "svg.hashsalt": name})


def _axes(width: float, x: str, y: str, right: float = 0.12) -> tuple[Figure, Axes]:
    """A figure of a width in inches and a height of three, and its axes with their labels and a margin on the right."""
    figure = Figure(figsize=(width, 3))
    # Fixed margins: a layout engine draws every plot twice.
    axes = figure.add_axes((0.68 / width, 0.16, 1 - (0.68 + right) / width, 0.8))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure, text: str) -> Markup:
    """A figure as an element of a page, with a text for those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Groups are named by what they are, the same in every figure; markers and clip paths by a digest.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for number, color in enumerate(_SERIES):
        svg = svg.replace(color, f"var(--series-{number})")
    svg = svg.replace(_INK, "currentColor")
    # Only matplotlib's own elements are left: it has escaped the ids that it was given.
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1))
