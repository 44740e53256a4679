"""The ``--exclude`` file: pairs that a user leaves out."""

from __future__ import annotations

import pathlib
import re

from preprocess.findings import FatalInputError
from preprocess.inputs.tables import read_rows

# As many digits as in the names of images and contours.
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def read_exclusions(path: pathlib.Path) -> dict[tuple[str, int], str]:
    """Reads an ``--exclude`` file: CSV with columns study_id, instance_number and reason, like ``audit.csv``.

    Returns:
        The reason of each pair to leave out, by study id and number.

    Raises:
        FatalInputError: the file cannot be read, or a row names no pair; the message names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise FatalInputError(str(path), f"{problem}; pass a CSV file of pairs to leave out as --exclude") from error
    exclusions = {}
    for line, (study_id, number, reason) in read_rows(content, str(path), ("study_id", "instance_number", "reason")):
        if not study_id or not _NUMBER.fullmatch(number):
            detail = f"line {line}: study_id and a whole instance_number of at most 9 digits expected, one pair a row"
            raise FatalInputError(str(path), detail)
        exclusions[study_id, int(number)] = reason
    return exclusions
