"""The table of records: what is known and measured of each, as a NumPy structured array."""

from __future__ import annotations

import csv
import io
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from pipeline.remote import Directory

Table = npt.NDArray[np.void]
"""A structured array with the fields of ``schema.COLUMNS``, and perhaps others."""

_DAMAGED = (ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError, csv.Error, tokenize.TokenError)
"""What NumPy and csv raise for content that is not a table."""


def row(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row for :func:`build`; None and absent values become the column's missing value."""
    return tuple(
        column.missing if values.get(column.name) is None else values[column.name] for column in schema.COLUMNS
    )


def build(rows: Sequence[tuple[Any, ...]]) -> Table:
    """A table of rows from :func:`row`."""
    fields = []
    for place, (name, dtype, shape, _, _) in enumerate(schema.COLUMNS):
        # In a structured array, all texts of a column have one length.
        text = f"U{max((len(values[place]) for values in rows), default=1)}" if dtype == "str" else dtype
        fields.append((name, text, shape))
    return np.array(list(rows), fields)


def dump(table: Table) -> bytes:
    """A table as the content of a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    return file.getvalue()


def load(directory: Directory, info: DatasetInfo) -> Table:
    """The table of all records of a directory, split after split as in the manifest, each in storage order.

    For records of version 0.1.0, which have no table, it is read from ``pairs.csv``. That has no pixel spacing and no
    slice location, and takes about 15 times as long.

    Raises:
        RecordsError: the file is missing, does not match the manifest, or is not a table of these records.
    """
    name = schema.TABLE_FILE if schema.TABLE_FILE in info.names else schema.PAIRS_FILE
    path = directory.location(info.names.get(name, name))
    content = info.content(directory, name)
    try:
        table = _from_npy(content) if name == schema.TABLE_FILE else _from_pairs(content, info)
    except _DAMAGED as error:
        raise RecordsError(f"{path}: is not a table of these records ({error}); write the records again") from error
    if table.shape != (info.cardinality,):
        raise RecordsError(
            f"{path}: has rows for {len(table)} records, {info.cardinality} expected; write the records again"
        )
    return table


def _from_npy(content: bytes) -> Table:
    # Not np.load, which also reads other kinds of files.
    table: Table = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if table.ndim != 1:
        raise ValueError("one row per record expected")
    for name, dtype, shape, _, _ in schema.COLUMNS:
        if name not in (table.dtype.names or ()):
            raise ValueError(f"there is no column {name}")
        found = table.dtype[name]
        if found.shape != shape or found.base.kind != np.dtype(dtype).kind:
            raise ValueError(f"column {name} has dtype {found}, {dtype} of shape {shape} expected")
        # Python cannot make a text of other numbers.
        if found.kind == "U" and table[name].astype(found.newbyteorder("=")).view(np.uint32).max(initial=0) > 0x10FFFF:
            raise ValueError(f"column {name} is not text")
    return table


def _from_pairs(content: bytes, info: DatasetInfo) -> Table:
    of_study: dict[str, list[Mapping[str, str]]] = {}
    for measured in csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")):
        if measured["written"] == "1":
            of_study.setdefault(measured["study_id"], []).append(measured)
    return build(
        [
            row({**_parsed(measured), "split": name})
            for name, split in info.splits.items()
            for study_id in sorted(split.studies)
            for measured in of_study.get(study_id, ())
        ]
    )


def _parsed(measured: Mapping[str, str]) -> dict[str, Any]:
    kinds: dict[str, type] = {"str": str, "int64": int, "float64": float}
    return {
        column.name: kinds[column.dtype](measured[column.name])
        for column in schema.COLUMNS
        if measured.get(column.name)
    }
