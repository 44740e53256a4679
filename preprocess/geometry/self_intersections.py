"""How often a polygon meets itself, on which the time to draw and to measure it depends. NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preprocess.geometry import Polygon

MAX_NEIGHBORS = 1_000_000
"""Pairs of edges at one height that are compared: of any 1,400 edges, or of 100,000 once around a smooth outline."""


def neighbors(polygon: Polygon) -> int:
    """Pairs of edges that share a y, consecutive edges included: between the edge count and half its square."""
    starts, ends = _edges(polygon)
    low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    return int(_later_neighbors(np.sort(low), high[np.argsort(low)]).sum())


def crossings(polygon: Polygon) -> int:
    """Pairs of edges that cross or touch elsewhere than at a vertex that joins them; a sweep along y.

    Args:
        polygon: float64 ``(N, 2)``, finite, of at most ``MAX_NEIGHBORS`` neighbors.
    """
    starts, ends = _edges(polygon)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    by_height = np.argsort(low[:, 1])
    counts = _later_neighbors(low[by_height, 1], high[by_height, 1])
    position = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
    one, other = by_height[position], by_height[position + 1 + offset]
    apart = np.abs(one - other)
    near = (low[one, 0] <= high[other, 0]) & (low[other, 0] <= high[one, 0])
    near &= (apart != 1) & (apart != len(starts) - 1)
    one, other = one[near], other[near]
    # Both ends of each lie on different sides of the other, or on it.
    meets = _sides(starts[one], ends[one], starts[other], ends[other]) <= 0
    meets &= _sides(starts[other], ends[other], starts[one], ends[one]) <= 0
    return int(meets.sum())


def _edges(polygon: Polygon) -> tuple[Polygon, Polygon]:
    """Start and end of each edge, without those from a vertex to itself."""
    ends = np.roll(polygon, -1, axis=0)
    long = (polygon != ends).any(axis=1)
    return polygon[long], ends[long]


def _later_neighbors(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each edge, sorted by low end, how many of the edges after it begin before it ends."""
    return np.searchsorted(low, high, side="right") - np.arange(len(low)) - 1


def _sides(starts: Polygon, ends: Polygon, first: Polygon, second: Polygon) -> npt.NDArray[np.float64]:
    """Below 0 where two points lie on different sides of an edge, 0 where one lies on it."""
    along = ends - starts
    return np.sign(_cross(along, first - starts)) * np.sign(_cross(along, second - starts))


def _cross(one: Polygon, other: Polygon) -> npt.NDArray[np.float64]:
    return np.asarray(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])
