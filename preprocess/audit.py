"""What is wrong, and how bad: the audit of one run."""

from __future__ import annotations

import collections
import csv
import io
import pathlib
from collections.abc import Iterable

from preprocess.errors import Finding, InputError

LEVELS = {
    "missing_study": "error",
    "unlinked_study": "warning",
    "bad_link": "error",
    "unlabeled_images": "info",
    "no_image": "error",
    "unreadable_image": "error",
    "unreadable_contour": "error",
    "unsupported_image": "error",
    "header_mismatch": "error",
    "duplicate_image": "error",
    "duplicate_contour": "error",
    "degenerate_contour": "error",
    "nonfinite_contour": "error",
    "oversized_contour": "error",
    "outside_image": "error",
    "self_intersecting": "warning",
    "open_contour": "warning",
    "not_nested": "warning",
    "misregistered": "warning",
    "volume_order": "warning",
    "incomplete_volumes": "warning",
    "size_mismatch": "error",
    "excluded": "info",
    "junk": "info",
}
"""Every reason and its level, unless the finding has one of its own.

An ``error`` leaves its pair, file or study out of the records; the rest goes on.
"""

COLUMNS = ("study_id", "kind", "path", "instance_number", "level", "reason", "detail")


class Audit:
    """Everything found in one run."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        """Takes findings in, in any order."""
        self._findings.extend(findings)

    def of_level(self, level: str) -> list[Finding]:
        """The findings of a level, in the audit's order."""
        return [finding for finding in self._sorted() if _level(finding) == level]

    def counts(self, level: str) -> dict[str, int]:
        """How many findings of a level there are, by reason, the most frequent first."""
        return dict(collections.Counter(finding.reason for finding in self.of_level(level)).most_common())

    def dump(self) -> bytes:
        """The audit as CSV, a row per finding, in an order that depends on nothing but the findings."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for finding in self._sorted():
            number = "" if finding.instance_number is None else finding.instance_number
            row = finding.study_id, finding.kind, finding.path, number, _level(finding), finding.reason, finding.detail
            writer.writerow(row)
        # A file name need not be UTF-8; what is not is written as an escape.
        return text.getvalue().encode("utf-8", "backslashreplace")

    def _sorted(self) -> list[Finding]:
        return sorted(
            self._findings,
            key=lambda finding: (
                finding.study_id,
                -1 if finding.instance_number is None else finding.instance_number,
                finding.reason,
                finding.path,
                finding.detail,
            ),
        )


def _level(finding: Finding) -> str:
    return finding.level or LEVELS[finding.reason]


def read_exclusions(path: pathlib.Path) -> dict[tuple[str, int], str]:
    """Reads an ``--exclude`` file: CSV with columns study_id, instance_number and reason, as ``audit.csv`` has them.

    Returns:
        The reason of each pair to leave out, by study id and number.

    Raises:
        InputError: it cannot be read, or a row names no pair; the message names the line.
    """
    exclusions = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"study_id", "instance_number", "reason"} - set(reader.fieldnames or ())
            if missing:
                raise InputError(str(path), f"the first line does not name the columns {', '.join(sorted(missing))}")
            for row in reader:
                study_id, number = (row["study_id"] or "").strip(), (row["instance_number"] or "").strip()
                if not study_id or not (number.isascii() and number.isdigit()):
                    raise InputError(
                        str(path),
                        f"line {reader.line_num}: study_id and a whole instance_number expected, one pair a row",
                    )
                exclusions[study_id, int(number)] = (row["reason"] or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(str(path), f"cannot be read as UTF-8 CSV ({error})") from error
    return exclusions
