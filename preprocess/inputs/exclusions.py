"""The ``--exclude`` file: pairs that a user leaves out."""

from __future__ import annotations

import pathlib
import re

from preprocess.findings import FatalInputError, Reason
from preprocess.inputs.folders import MAX_FILE_BYTES
from preprocess.model import Contours, Key
from preprocess.tables import read_rows, unquoted

LEFT_OUT = "left out by --exclude: "
"""How the detail of an excluded pair begins; its reason follows."""

_COLUMNS = "study_id", "instance_number", "reason"
# As many digits as in the names of images and contours.
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def read_exclusions(path: pathlib.Path, contours: Contours) -> dict[Key, str]:
    """Reads an ``--exclude`` file: ``audit.csv``, rows of it, or CSV with study_id, instance_number and reason.

    Rows about contours of a kind that is not written, in a column ``contour``, are skipped, and so are the audit's rows
    without a number, which are about a study or a file.

    Returns:
        The reason of each pair to leave out, by study id and number.

    Raises:
        FatalInputError: the file cannot be read, or a row names no pair; the message names the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise FatalInputError(str(path), f"{problem}; pass a CSV file of pairs to leave out as --exclude") from error
    if len(content) > MAX_FILE_BYTES:
        raise FatalInputError(str(path), f"has over {MAX_FILE_BYTES} bytes, a row for each pair expected")
    exclusions: dict[Key, str] = {}
    for line, row in read_rows(content, str(path), _COLUMNS, optional=("kind", "contour", "detail")):
        study_id, number, reason, what, contour, detail = map(unquoted, row)
        if contour not in ("", "i", "o"):
            raise FatalInputError(str(path), f"line {line}: contour is {contour!r}, i, o or nothing expected")
        if what in ("study", "link", "file") and not number:
            continue
        if not study_id:
            raise FatalInputError(str(path), f"line {line}: study_id is empty, one pair a row expected")
        if not _NUMBER.fullmatch(number):
            detail = f"line {line}: instance_number is {number[:20]!r}, a whole number of at most 9 digits expected"
            raise FatalInputError(str(path), detail)
        # An empty one is about the pair, and is in any string.
        if contour in contours:
            # A row that an earlier run wrote about an exclusion has the reason behind it in its detail.
            of_earlier_run = reason == Reason.EXCLUDED and detail.startswith(LEFT_OUT)
            exclusions.setdefault((study_id, int(number)), detail.removeprefix(LEFT_OUT) if of_earlier_run else reason)
    return exclusions
