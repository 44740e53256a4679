"""The region inside a polygon and its measures, by shapely.

A point is inside when the outline goes around it, on balance, at least once (nonzero winding rule). So an outline that
overshoots its first point, or goes around twice, encloses the same as when drawn once, and both lobes of a figure of
eight are inside.
"""

from __future__ import annotations

import hashlib

import numpy as np
import shapely

from preprocess.geometry import Polygon

# Where a polygon crosses itself, its region's vertices lie on this grid, in pixels: without it, floating-point noding
# fails on edges that almost coincide.
_GRID = 1e-6

MAX_NEIGHBORS = 1_000_000
"""Pairs of edges at one height that are compared: of any 1,400 edges, or of 100,000 once around a smooth outline."""


def digest(polygon: Polygon) -> bytes:
    """SHA-256 of its points."""
    return hashlib.sha256(polygon.tobytes()).digest()


def area(polygon: Polygon) -> float:
    """Area of the region inside, in square pixels."""
    return float(region(polygon).area)


def crosses_itself(polygon: Polygon) -> bool:
    """Whether two of its edges meet elsewhere than at a vertex they share."""
    return not shapely.is_valid(shapely.Polygon(polygon))


def neighbors(*outlines: Polygon) -> int:
    """Pairs of edges that share a y, consecutive edges included: between the edge count and half its square."""
    heights = np.concatenate([_edges(outline) for outline in outlines])[:, :, 1]
    low, high = np.sort(heights.min(axis=1)), np.sort(heights.max(axis=1))
    # Of all pairs, those of which one edge ends below the other do not count.
    below = np.searchsorted(high, low, side="left")
    return int(len(low) * (len(low) - 1) // 2 - below.sum())


def self_intersections(polygon: Polygon) -> int:
    """Pairs of edges that cross or touch elsewhere than at a vertex that joins them.

    Args:
        polygon: float64 ``(N, 2)``, finite, of at most ``MAX_NEIGHBORS`` neighbors.
    """
    # Usually there are none, and that is found out ten times faster.
    if not crosses_itself(polygon):
        return 0
    edges = shapely.linestrings(_edges(polygon))
    one, other = shapely.STRtree(edges).query(edges, predicate="intersects")
    apart = other - one
    return int(((apart > 1) & (apart < len(edges) - 1)).sum())


def meetings(*outlines: Polygon) -> int:
    """Pairs of edges of different outlines that cross or touch.

    Args:
        outlines: each float64 ``(N, 2)``, finite, together of at most ``MAX_NEIGHBORS`` neighbors.
    """
    parts = [_edges(outline) for outline in outlines]
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    edges = shapely.linestrings(np.concatenate(parts))
    one, other = shapely.STRtree(edges).query(edges, predicate="intersects")
    return int((number[one] < number[other]).sum())


def share_outside(inner: Polygon, outer: Polygon) -> float:
    """Share of the inner polygon's area that lies outside the outer one, from 0 to 1."""
    inside = region(inner)
    return float(shapely.difference(inside, region(outer)).area / inside.area) if inside.area else 1.0


def rings(polygon: Polygon) -> list[Polygon]:
    """Outlines of the region inside, which do not cross: the polygon itself where it does not cross itself.

    The region is what an odd number of them enclose: its parts, less their holes.
    """
    if not crosses_itself(polygon):
        return [polygon]
    parts = shapely.get_rings(shapely.get_parts(region(polygon)))
    return [shapely.get_coordinates(ring)[:-1] for ring in parts]


def region(polygon: Polygon) -> shapely.Geometry:
    """The region inside, as a geometry of shapely."""
    shape = shapely.Polygon(polygon)
    if shapely.is_valid(shape):
        return shape
    edges = shapely.unary_union(shapely.LineString(np.vstack([polygon, polygon[:1]])), grid_size=_GRID)
    faces = shapely.get_parts(shapely.polygonize([edges]))
    return shapely.unary_union([face for face in faces if _winding(polygon, *shapely.point_on_surface(face).coords[0])])


def _winding(polygon: Polygon, x: float, y: float) -> int:
    """How often the polygon goes around a point: turns in one direction minus turns in the other."""
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    # Edges that cross the ray from the point towards greater x count by their direction.
    side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
    up, down = (y0 <= y) & (y < y1) & (side > 0), (y1 <= y) & (y < y0) & (side < 0)
    return int(up.sum()) - int(down.sum())


def _edges(polygon: Polygon) -> Polygon:
    """Start and end of each edge, float64 ``(N, 2, 2)``, without those from a vertex to itself."""
    ends = np.roll(polygon, -1, axis=0)
    return np.asarray(np.stack([polygon, ends], axis=1)[(polygon != ends).any(axis=1)])
