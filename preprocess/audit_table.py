"""What is wrong, and how bad: the audit of one run."""

from __future__ import annotations

import collections
import csv
import io
import pathlib
import re
from collections.abc import Iterable

from preprocess.findings import Finding, InputError
from preprocess.inputs.tables import read_rows

# As in the names of images and contours.
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)

LEVELS = {
    "unreadable_folder": "error",
    "circular_link": "warning",
    "missing_study": "error",
    "unlinked_study": "warning",
    "bad_link": "error",
    "unlabeled_images": "info",
    "unconfirmed": "info",
    "no_image": "error",
    "unreadable_image": "error",
    "unreadable_contour": "error",
    "unsupported_image": "error",
    "changed_image": "error",
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
    "mixed_photometric": "warning",
    "incomplete_volumes": "warning",
    "size_mismatch": "error",
    "excluded": "info",
    "unmatched_exclusion": "warning",
    "unused_file": "warning",
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
        """How many inputs the findings of a level are about, by reason, the most frequent first."""
        counts = collections.Counter[str]()
        for finding in self.of_level(level):
            counts[finding.reason] += finding.count
        return dict(counts.most_common())

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
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise InputError(str(path), f"{problem}; --exclude names a CSV file of pairs to leave out") from error
    exclusions = {}
    for line, (study_id, number, reason) in read_rows(content, str(path), ("study_id", "instance_number", "reason")):
        if not study_id or not _NUMBER.fullmatch(number):
            raise InputError(
                str(path),
                f"line {line}: study_id and a whole instance_number of at most 9 digits expected, one pair a row",
            )
        exclusions[study_id, int(number)] = reason
    return exclusions
