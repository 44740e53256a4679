"""How often a polygon meets itself, on which the time to draw and to measure it depends."""

from __future__ import annotations

import numpy as np
import shapely

from preprocess.geometry import Polygon

MAX_NEIGHBORS = 1_000_000
"""Pairs of edges at one height that are compared: of any 1,400 edges, or of 100,000 once around a smooth outline."""


def neighbors(polygon: Polygon) -> int:
    """Pairs of edges that share a y, consecutive edges included: between the edge count and half its square."""
    heights = _edges(polygon)[:, :, 1]
    low, high = np.sort(heights.min(axis=1)), np.sort(heights.max(axis=1))
    # Of all pairs, those of which one edge ends below the other do not count.
    below = np.searchsorted(high, low, side="left")
    return int(len(low) * (len(low) - 1) // 2 - below.sum())


def crossings(polygon: Polygon) -> int:
    """Pairs of edges that cross or touch elsewhere than at a vertex that joins them.

    Args:
        polygon: float64 ``(N, 2)``, finite, of at most ``MAX_NEIGHBORS`` neighbors.
    """
    edges = shapely.linestrings(_edges(polygon))
    one, other = shapely.STRtree(edges).query(edges, predicate="intersects")
    apart = other - one
    return int(((apart > 1) & (apart < len(edges) - 1)).sum())


def _edges(polygon: Polygon) -> Polygon:
    """Start and end of each edge, float64 ``(N, 2, 2)``, without those from a vertex to itself."""
    ends = np.roll(polygon, -1, axis=0)
    return np.asarray(np.stack([polygon, ends], axis=1)[(polygon != ends).any(axis=1)])
