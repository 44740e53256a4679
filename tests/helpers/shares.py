"""What each class of a label map has of each pixel, exactly."""

import numpy as np
import shapely


def exact_shares(inner: np.ndarray, outer: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Share of each pixel outside, in the blood pool and in the myocardium, ``(3, H, W)``, of simple polygons."""
    pool, whole = shapely.Polygon(inner), shapely.Polygon(outer)
    left, top, right, bottom = (int(edge) for edge in shapely.union(pool, whole).bounds)
    x, y = np.meshgrid(np.arange(left, right + 1), np.arange(top, bottom + 1))
    pixels = shapely.box(x, y, x + 1, y + 1)
    shares = np.zeros((3, *shape))
    for label, region in ((1, pool), (2, shapely.difference(whole, pool))):
        shapely.prepare(region)
        areas = shapely.contains_properly(region, pixels).astype(float)
        # Only pixels on the boundary need the intersection.
        edge = (areas == 0) & shapely.intersects(region, pixels)
        areas[edge] = shapely.area(shapely.intersection(region, pixels[edge]))
        shares[label, top : bottom + 1, left : right + 1] = areas
    shares[0] = 1 - shares.sum(axis=0)
    return shares
