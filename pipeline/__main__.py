"""Prints what a records directory holds: its splits and studies, with what was measured of each.

    python -m pipeline RECORDS

The exit status is 0, or 1 if the directory cannot be read. python -m pipeline.verify checks every byte.
"""

from __future__ import annotations

import argparse
import csv
import io
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from pipeline import __version__, schema
from pipeline.errors import RecordsError
from pipeline.view import Records

_STUDY_COLUMNS = {
    "slices": "slices",
    "phases": "phases",
    "row_spacing_mm": "row mm",
    "column_spacing_mm": "column mm",
    "slice_spacing_mm": "slice mm",
    "edv_ml": "EDV ml",
    "esv_ml": "ESV ml",
    "ejection_fraction_percent": "EF %",
}

_VOLUMES = "edv_ml", "esv_ml", "ejection_fraction_percent"


def describe(records: Records) -> Iterator[str]:
    """Yields the lines that describe all records of a directory.

    Raises:
        RecordsError: a table does not match the manifest.
    """
    info = records.info
    height, width, _ = info.image_shape
    shards = [shard for split in info.splits.values() for shard in split.shards]
    megabytes = sum(shard.bytes for shard in shards) / 1e6
    yield (
        f"{records.path}: {len(records)} records of {len(records.studies)} studies, {megabytes:.1f} MB in "
        f"{len(shards)} shard{'' if len(shards) == 1 else 's'}"
    )
    classes = ", ".join(f"{label} {name}" for label, name in enumerate(info.mask_classes))
    masks = f"label maps {info.mask_dtype} ({classes})" if classes else f"masks {info.mask_dtype}"
    yield f"images {height} × {width}, {np.dtype(info.image_dtype)}; {masks}"
    settings = ", ".join(f"{name}={value}" for name, value in info.settings.items())
    yield f"written by version {info.tool_version} with {settings or 'no settings'}"
    yield ""
    yield from _aligned(
        ["split", "records", "studies", "shards", "steps of 8"],
        (
            [name, split.count, len(split.studies), len(split.shards), split.steps_per_epoch(8)]
            for name, split in info.splits.items()
        ),
    )
    yield ""
    measured = _studies(records)
    ids, first, counts = np.unique(records.table["study_id"], return_index=True, return_counts=True)
    yield from _aligned(
        ["study", "split", "records", *_STUDY_COLUMNS.values()],
        (
            [study_id, records.table["split"][place], count]
            + [_measured(measured.get(study_id, {}), column) for column in _STUDY_COLUMNS]
            for study_id, place, count in zip(ids.tolist(), first, counts, strict=True)
        ),
    )
    if any(row.get("volumes_reliable") == "0" for row in measured.values()):
        yield f"* not reliable: contours of this study are missing or doubtful; see {schema.AUDIT_FILE}"


def _measured(row: Mapping[str, str], column: str) -> str:
    """A column of studies.csv, with a mark where it is not reliable."""
    value = row.get(column, "")
    return f"{value}*" if value and column in _VOLUMES and row.get("volumes_reliable") == "0" else value


def _studies(records: Records) -> Mapping[str, Mapping[str, str]]:
    """The rows of studies.csv by study, none if the directory has no such table.

    Raises:
        RecordsError: it does not match the manifest, or is not such a table.
    """
    if schema.STUDIES_FILE not in records.info.names:
        return {}
    content = records.content(schema.STUDIES_FILE)
    try:
        return {row["study_id"]: row for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))}
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise RecordsError(
            f"{records.path}: {schema.STUDIES_FILE} is not a table of studies ({error}); write the records again"
        ) from error


def _aligned(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a table: the first column to the left, the others to the right."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", metavar="RECORDS", help="records directory, or its URL")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    # As other commands: `| head` ends it without an error, and a terminal shows the characters that it has.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        for line in describe(Records(arguments.records)):
            print(line)
    except RecordsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
