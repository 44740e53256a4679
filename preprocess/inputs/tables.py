"""CSV files that people write: ``link.csv`` and the list of exclusions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from preprocess.findings import FatalInputError


def read_rows(content: bytes, path: str, columns: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """The line number of each row, and its values in some columns, stripped of white space.

    Args:
        content: the file, UTF-8, with or without a byte order mark.
        path: its name in messages.
        columns: names that the first line must contain; it may contain others. Values missing in a row are empty.

    Raises:
        FatalInputError: the file is not CSV, or its first line does not name each column once.
    """
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        names = list(reader.fieldnames or ())
        if missing := [column for column in columns if column not in names]:
            raise FatalInputError(path, f"the first line does not name the columns {', '.join(missing)}")
        if repeated := [column for column in columns if names.count(column) > 1]:
            detail = f"the first line names the column {repeated[0]} more than once; remove all but one"
            raise FatalInputError(path, detail)
        return [(reader.line_num, tuple((row[column] or "").strip() for column in columns)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FatalInputError(path, f"cannot be read as UTF-8 CSV ({error})") from error
