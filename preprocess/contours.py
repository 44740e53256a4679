"""File → polygon."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from preprocess.errors import InputError
from preprocess.study import Polygon

MAX_POINTS = 100_000
# Two numbers of 24 characters, what separates them, and the line's end.
_MAX_BYTES = 64 * MAX_POINTS

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?nan|[-+]?inf(?:inity)?)"
_LINE = re.compile(rf"\s*{_NUMBER}(?:\s*,\s*|\s+){_NUMBER}\s*", re.ASCII | re.IGNORECASE)


def read_contour(file: BinaryIO, path: str) -> Polygon:
    """Reads a contour: a line ``x y`` per vertex, separated by white space or a comma; blank lines are passed over.

    Args:
        file: text, UTF-8, line ends of any system.
        path: what errors call the file.

    Returns:
        float64 ``(N, 2)``, columns x and y in pixels, as the file has them.

    Raises:
        InputError: ``unreadable_contour`` (the message names the line), ``nonfinite_contour``,
            ``oversized_contour`` or ``degenerate_contour``.
    """
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InputError(path, f"over {_MAX_BYTES} bytes, at most {MAX_POINTS} points expected", "oversized_contour")
    points = []
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf")), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.decode("ascii", "replace"))
        if match is None:
            raise InputError(path, f"line {number} is not two numbers, x and y", "unreadable_contour")
        points.append((float(match[1]), float(match[2])))
    if len(points) > MAX_POINTS:
        raise InputError(path, f"{len(points)} points, at most {MAX_POINTS} expected", "oversized_contour")
    polygon = np.array(points, np.float64).reshape(-1, 2)
    if not np.isfinite(polygon).all():
        bad = int(np.flatnonzero(~np.isfinite(polygon).all(axis=1))[0])
        raise InputError(path, f"point {bad + 1} is not finite", "nonfinite_contour")
    distinct = np.unique(polygon, axis=0)
    if len(distinct) < 3:
        raise InputError(path, f"{len(distinct)} distinct points, at least 3 expected", "degenerate_contour")
    # Scaled first: the difference of two numbers near 1e308 is not finite.
    scaled = distinct / np.abs(distinct).max()
    if np.linalg.matrix_rank(scaled - scaled[0]) < 2:
        raise InputError(path, "all points lie on one line", "degenerate_contour")
    return polygon
