"""Several outlines → one region, and a region of several parts or with holes → one outline.

An outline with two parts goes around one, along a bridge of no width to the other, around it, and back along the same
bridge. A hole is gone around the other way, so that the nonzero winding rule leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from preprocess.geometry import Polygon, polygons


def combined(planar: Sequence[Polygon], xor: Sequence[Polygon]) -> list[Polygon]:
    """The outlines of the region that several outlines on one image describe (PS3.3 C.8.8.6.3).

    The standard combines outlines of type CLOSEDPLANAR_XOR by exclusive or. It does not say what several outlines of
    type CLOSED_PLANAR mean; as writers use them, one that lies within the region of the larger ones is a hole, and any
    other one adds to the region.

    Args:
        planar: outlines of type CLOSED_PLANAR.
        xor: outlines of type CLOSEDPLANAR_XOR.

    Returns:
        Outlines that do not cross: those of parts are counterclockwise where y grows upward, those of holes clockwise.
        None if the region is empty.
    """
    region = shapely.Polygon()
    for outline in sorted(map(polygons.region, planar), key=lambda shape: -shape.area):
        hole = shapely.covers(region, outline) and not shapely.equals(region, outline)
        region = shapely.difference(region, outline) if hole else shapely.union(region, outline)
    exclusive = shapely.Polygon()
    for outline in map(polygons.region, xor):
        exclusive = shapely.symmetric_difference(exclusive, outline)
    region = shapely.union(region, exclusive)
    outlines = []
    for part in shapely.get_parts(region):
        # A union may leave lines, where outlines touch, and of nothing it is an empty polygon.
        if part.geom_type == "Polygon" and not part.is_empty:
            outlines.append(_turned(part.exterior, counterclockwise=True))
            outlines += [_turned(hole, counterclockwise=False) for hole in part.interiors]
    return outlines


def _turned(ring: shapely.LinearRing, counterclockwise: bool) -> Polygon:
    points = shapely.get_coordinates(ring)[:-1]
    return np.asarray(points if bool(shapely.is_ccw(ring)) == counterclockwise else points[::-1])


def bridged(outlines: Sequence[Polygon]) -> Polygon:
    """One outline that goes around several, along bridges of no width.

    Args:
        outlines: at least one, as ``combined`` returns them.
    """
    path, *rest = outlines
    for outline in rest:
        near = int(np.argmin(((path - outline[0]) ** 2).sum(axis=1)))
        path = np.vstack([path[: near + 1], outline, outline[:1], path[near:]])
    return path


def has_bridges(polygon: Polygon) -> bool:
    """Whether an outline goes along an edge in both directions, as around several parts or a hole."""
    edges = [(*start, *end) for start, end in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True)]
    there = {edge for edge in edges if edge[:2] != edge[2:]}
    return any((*edge[2:], *edge[:2]) in there for edge in there)
