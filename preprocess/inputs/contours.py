"""A contour file → a polygon."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from preprocess.findings import InputError, Reason
from preprocess.geometry import Polygon
from preprocess.geometry.polygons import MAX_NEIGHBORS, digest, meetings, neighbors, self_intersections
from preprocess.model import Origin

MAX_POINTS = 100_000
# For each point two numbers of 24 characters, a separator and a line end.
_MAX_BYTES = 64 * MAX_POINTS

# Rejecting a line takes the expression below a time that grows with the square of its length.
_MAX_LINE_BYTES = 256

MAX_COORDINATE = 1 << 16
"""No image is larger: Rows and Columns are 16-bit numbers (PS3.3 C.7.6.3.1)."""

MAX_CROSSINGS = 100
"""How often a contour may meet itself. A slip of the hand makes a few crossings. The time for exact areas grows with
the square of their number: 200 random vertices, which cross 4,500 times, take three seconds."""

MAX_MEETINGS = 10_000
"""How often outlines on one image may meet, where they are compared or combined. 400,000 crossings take ten seconds."""

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?nan|[-+]?inf(?:inity)?)"
# Nearly all files: it finds what the other expression finds, and takes a third of the time for the whole file.
_PLAIN = re.compile(rb"(?:-?+\d{1,20}+\.\d{1,20}+ -?+\d{1,20}+\.\d{1,20}+\r?+\n)*+")
_LINE = re.compile(rf"\s*{_NUMBER}(?:\s*,\s*|\s+){_NUMBER}\s*", re.ASCII | re.IGNORECASE)


def read_contour(file: BinaryIO, origin: Origin = "corner", known: bytes | None = None) -> Polygon:
    """Reads a contour: a line ``x y`` for each vertex, separated by white space or a comma; blank lines are skipped.

    Args:
        file: UTF-8 text, with the line ends of any system.
        origin: which point of the top-left pixel is (0, 0) in the file.
        known: ``polygons.digest`` of the contour, if it was read before; then it is not checked again.

    Returns:
        float64 ``(N, 2)``, columns x and y in pixels; (0, 0) is the outer corner of the top-left pixel.

    Raises:
        InputError: ``unreadable_contour`` (the message names the line, or the file is cut off), ``nonfinite_contour``,
            ``outside_image`` (outside any possible image), ``oversized_contour`` or ``degenerate_contour``.
    """
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InputError(
            Reason.OVERSIZED_CONTOUR, f"the file has over {_MAX_BYTES} bytes, at most {MAX_POINTS} points expected"
        )
    numbers = _parse(data)
    _check_end(data, numbers)
    points = len(numbers) // 2
    if points > MAX_POINTS:
        raise InputError(Reason.OVERSIZED_CONTOUR, f"{points} points, at most {MAX_POINTS} expected")
    polygon = np.array([float(number) for number in numbers], np.float64).reshape(-1, 2)
    placed = polygon + 0.5 if origin == "center" else polygon
    if known is None or digest(placed) != known:
        check_points(polygon)
        check_outline(polygon)
    return placed


def _parse(data: bytes) -> list[str]:
    """The numbers of a contour file, two a line, as they are written there."""
    if _PLAIN.fullmatch(data):
        return data.decode("ascii").split()
    numbers: list[str] = []
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf")), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.decode("ascii", "replace")) if len(line) <= _MAX_LINE_BYTES else None
        if match is None:
            raise InputError(Reason.UNREADABLE_CONTOUR, f"line {number} is not two numbers, x and y")
        numbers += match.groups()
    return numbers


def check_points(polygon: Polygon) -> None:
    """Checks that points are finite, within the largest possible image, and not all on one line.

    Args:
        polygon: float64 ``(N, 2)``, in pixels.

    Raises:
        InputError: ``nonfinite_contour``, ``outside_image`` or ``degenerate_contour``.
    """
    if not np.isfinite(polygon).all():
        bad = int(np.flatnonzero(~np.isfinite(polygon).all(axis=1))[0])
        raise InputError(Reason.NONFINITE_CONTOUR, f"point {bad + 1} is not finite")
    beyond = np.flatnonzero((np.abs(polygon) > MAX_COORDINATE).any(axis=1))
    if len(beyond):
        x, y = polygon[beyond[0]]
        detail = f"point {beyond[0] + 1} is x {x:g}, y {y:g}; at most ±{MAX_COORDINATE} pixels expected"
        raise InputError(Reason.OUTSIDE_IMAGE, detail)
    # An outline around an area is not on one line; nearly all are found so, which is faster.
    x, y = spread = (polygon - polygon[:1]).T
    if abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) > 1e-6 * np.abs(spread).max(initial=0) ** 2 > 0:
        return
    distinct = np.unique(polygon, axis=0)
    if len(distinct) < 3:
        raise InputError(Reason.DEGENERATE_CONTOUR, f"{len(distinct)} distinct points, at least 3 expected")
    # Scaled first, because squares of numbers near 1e-308 are 0.
    scaled = distinct / np.abs(distinct).max()
    if np.linalg.matrix_rank(scaled - scaled[0]) < 2:
        raise InputError(Reason.DEGENERATE_CONTOUR, "all points lie on one line")


def _check_end(data: bytes, numbers: Sequence[str]) -> None:
    """Refuses a file that is cut off within its last number, which would move the last point.

    This is certain only when all other numbers have equally many characters after the point, exponents included.
    """
    if data[-1:].isspace():
        return
    *others, last = [len(number.partition(".")[2]) for number in numbers] or [0]
    if len(set(others)) == 1 and last < others[0]:
        detail = (
            f"the last line does not end, and its last number has fewer decimals than all others ({last} instead of "
            f"{others[0]}): the file is cut off"
        )
        raise InputError(Reason.UNREADABLE_CONTOUR, detail, "copy it again")


def check_outline(polygon: Polygon, most_crossings: int = MAX_CROSSINGS) -> None:
    """Limits the time that a contour takes to draw and to measure.

    Args:
        polygon: as ``check_points`` accepts it.
        most_crossings: how often it may meet itself.

    Raises:
        InputError: ``oversized_contour``.
    """
    side_by_side = neighbors(polygon)
    if side_by_side > MAX_NEIGHBORS:
        detail = f"{side_by_side} pairs of edges overlap in y, at most {MAX_NEIGHBORS} expected of an outline"
        raise InputError(Reason.OVERSIZED_CONTOUR, detail)
    met = self_intersections(polygon)
    if met > most_crossings:
        detail = f"it meets itself {met} times, at most {most_crossings} expected of an outline"
        raise InputError(Reason.OVERSIZED_CONTOUR, detail)


def check_together(*outlines: Polygon) -> None:
    """Limits the time that outlines on one image take to be compared or combined.

    Args:
        outlines: each as ``check_outline`` accepts it.

    Raises:
        InputError: ``oversized_contour``.
    """
    side_by_side = neighbors(*outlines)
    if side_by_side > MAX_NEIGHBORS:
        detail = (
            f"{side_by_side} pairs of edges of the outlines on its image overlap in y, at most {MAX_NEIGHBORS} expected"
        )
        raise InputError(Reason.OVERSIZED_CONTOUR, detail)
    met = meetings(*outlines)
    if met > MAX_MEETINGS:
        detail = f"the outlines on its image meet {met} times, at most {MAX_MEETINGS} expected"
        raise InputError(Reason.OVERSIZED_CONTOUR, detail)
