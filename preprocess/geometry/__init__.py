"""Polygons in pixel coordinates: their areas, their masks, and the grid that they lie on."""
