"""CSV tables: those that people write, and those beside the records."""

from __future__ import annotations

import csv
import io
import math
import re
import types
from collections.abc import Iterable, Sequence
from typing import Any

from preprocess.findings import FatalInputError

# Spreadsheets take a cell that begins with one of these for a formula (OWASP, CSV Injection). Apostrophes before it
# count, so that quoting has an inverse.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def quoted(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that looks like it gets an apostrophe in front.

    >>> quoted("=1+1"), quoted("'=1+1"), quoted("it's")
    ("'=1+1", "''=1+1", "it's")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unquoted(text: str) -> str:
    """The text that was :func:`quoted`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def dump(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A table as CSV: floats with six digits, texts :func:`quoted`, blank for None and NaN."""
    lines: list[str] = []
    # csv puts a cell with a carriage return in quotes only if lines end with one (Python 3.11).
    writer = csv.writer(types.SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    # A file name need not be UTF-8; bytes that are not are written as escapes.
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines).encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else f"{value:.6g}"
    return quoted(value) if isinstance(value, str) else value


def load(content: bytes) -> list[dict[str, str]]:
    """The rows of a table that :func:`dump` made, with its texts as they were and numbers as text."""
    # A negative number is not quoted, and unquoted changes only what is.
    return [
        {column: unquoted(value) for column, value in row.items()}
        for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    ]


def read_rows(
    content: bytes, path: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, tuple[str, ...]]]:
    """The line number of each row, and its values in some columns, stripped of white space.

    Args:
        content: the file, UTF-8, with or without a byte order mark.
        path: its name in messages.
        columns: names that the first line must contain; it may contain others. Values missing in a row are empty.
        optional: more names; their values follow, empty where the first line does not contain them.

    Raises:
        FatalInputError: the file is not CSV, or its first line does not name each column once.
    """
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        names = list(reader.fieldnames or ())
        missing = [column for column in columns if column not in names]
        if missing:
            hint = "; separate columns with commas" if names and re.search(r"[;\t]", names[0]) else ""
            raise FatalInputError(path, f"the first line does not name the columns {', '.join(missing)}{hint}")
        wanted = [*columns, *optional]
        repeated = [column for column in wanted if names.count(column) > 1]
        if repeated:
            raise FatalInputError(
                path, f"the first line names the column {repeated[0]} more than once; remove all but one"
            )
        return [(reader.line_num, tuple((row.get(column) or "").strip() for column in wanted)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FatalInputError(path, f"cannot be read as UTF-8 CSV ({error})") from error
