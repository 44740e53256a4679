"""Tables that a run writes."""

import csv
import io
import pathlib


def read_table(source: pathlib.Path | bytes) -> list[dict[str, str]]:
    """The rows of a CSV file, given by its path or its content."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


def audit_of(records: pathlib.Path) -> list[dict[str, str]]:
    return read_table(records / "audit.csv")


def found_by(records: pathlib.Path, *reasons: str) -> list[tuple[str, str, str]]:
    """Study, number and level of each row of the audit that has one of the reasons."""
    return [
        (row["study_id"], row["instance_number"], row["level"]) for row in audit_of(records) if row["reason"] in reasons
    ]
