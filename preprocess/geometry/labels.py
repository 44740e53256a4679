"""Polygons → label map: a pixel has the class that covers most of its area.

Areas are those of ``masks``, so the label map of one region is that region's mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preprocess.findings import InputError, Reason
from preprocess.geometry import Polygon, masks


def label_map(
    regions: Sequence[tuple[str, Polygon]], classes: Sequence[str], shape: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """The class that covers most of each pixel.

    Where regions overlap, the earlier one counts. For the left ventricle that is the blood pool, then the myocardium:
    the myocardium is what lies inside the outer contour and not inside the inner one. The part of an inner contour that
    leaves the outer one is blood pool, because the inner contour is what the cardiologist drew as the cavity.

    Most of a pixel may be less than half of it: 40 % blood pool, 35 % myocardium and 25 % outside is blood pool. Of
    equal shares, outside counts first, then the later region: half of a pixel is not enough, as for masks. Areas have
    the error of ``masks``: over 2,700 random pairs of polygons, a pixel's class covers at most 0.13 of the pixel less
    than the class that covers most.

    >>> inner = np.array([(1, 0), (2.4, 0), (2.4, 1), (1, 1)])
    >>> outer = np.array([(0, 0), (2.75, 0), (2.75, 1), (0, 1)])
    >>> classes = "outside", "blood pool", "myocardium"
    >>> label_map([("blood pool", inner), ("myocardium", outer)], classes, (1, 4))
    array([[2, 1, 1, 0]], dtype=uint8)

    Args:
        regions: class and outline of each; several may have the same class. An outline is float ``(N, 2)``, columns x
            and y, in pixels; (0, 0) is the outer corner of the top-left pixel.
        classes: what the labels mean, from 0; 0 is outside all regions.
        shape: rows and columns of the image.

    Returns:
        uint8 ``(H, W)``, positions in ``classes``.

    Raises:
        InputError: ``outside_image`` when a vertex lies beyond the image's edge by more than a pixel;
            ``degenerate_contour`` when no pixel has the class of a region.
    """
    names, outlines = zip(*regions, strict=True)
    labels = [classes.index(name) for name in names]
    unions = masks.union_areas(outlines, shape)
    shares = np.zeros((len(classes), *shape), np.uint16)
    for label, added in zip(labels, np.diff(unions, axis=0, prepend=unions[:1] * 0), strict=True):
        shares[label] += added
    found, most = np.zeros(shape, np.uint8), masks.WHOLE - unions[-1]
    for label in dict.fromkeys(reversed(labels)):
        found[shares[label] > most] = label
        most = np.maximum(most, shares[label])
    for label in labels:
        if not (found == label).any():
            raise InputError(Reason.DEGENERATE_CONTOUR, f"no pixel has most of its area in the {classes[label]}")
    return found
