"""Exact measures of polygons, by shapely; even-odd where one crosses itself."""

from __future__ import annotations

import shapely

from preprocess.study import Polygon


def area(polygon: Polygon) -> float:
    """Area in square pixels."""
    return float(_shape(polygon).area)


def crosses_itself(polygon: Polygon) -> bool:
    """Whether two of its edges meet elsewhere than at a vertex they share."""
    return not shapely.is_valid(shapely.Polygon(polygon))


def share_outside(inner: Polygon, outer: Polygon) -> float:
    """Share of the inner polygon's area that lies outside the outer one, from 0 to 1."""
    shape = _shape(inner)
    return float(shapely.difference(shape, _shape(outer)).area / shape.area) if shape.area else 1.0


def _shape(polygon: Polygon) -> shapely.Geometry:
    return shapely.make_valid(shapely.Polygon(polygon))
