"""Opens records for reading in batches; both readers begin here."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any

import numpy.typing as npt

from pipeline import arguments
from pipeline.errors import RecordsError
from pipeline.order import Point, Schedule
from pipeline.pixels import Conversion
from pipeline.view import Records


@dataclasses.dataclass(frozen=True)
class Opened:
    """Records that are open for reading in batches.

    Attributes:
        records: the records.
        schedule: the positions of each batch.
        start: where the first iteration starts.
        conversion: from stored images to those that the caller gets.
        positions: whether the caller gets them, too.
        check_crc: verify each record's CRC-32C.
    """

    records: Records
    schedule: Schedule
    start: Point
    conversion: Conversion
    positions: bool
    check_crc: bool


def open_records(
    records: str | os.PathLike[str] | Records,
    split: str | None,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epochs: int | None,
    drop_remainder: bool,
    start_step: int,
    shard: tuple[int, int] | None,
    image_dtype: npt.DTypeLike | None,
    standardize: bool,
    positions: bool,
    check_crc: bool,
) -> Opened:
    """Opens records; :func:`pipeline.iterate_batches` documents the arguments.

    Warns if they are in a store and a shuffled epoch would fetch their shards again and again.

    Raises:
        TypeError: an argument has the wrong type.
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
    """
    conversion = Conversion(image_dtype, standardize)
    checked: dict[str, Any] = {
        "batch_size": arguments.whole_number("batch_size", batch_size, 1),
        "shuffle": arguments.flag("shuffle", shuffle),
        "seed": arguments.whole_number("seed", seed, 0),
        "epochs": None if epochs is None else arguments.whole_number("epochs", epochs, 1),
        "drop_remainder": arguments.flag("drop_remainder", drop_remainder),
        "shard": arguments.share("shard", shard),
    }
    step = arguments.whole_number("start_step", start_step, 0)
    if not isinstance(records, Records):
        records = Records(records, "train" if split is None else split)
    elif split is not None:
        raise RecordsError(f"split is {split!r}, but records is a Records object: choose its split when you make it")
    schedule = Schedule(count=len(records), **checked)
    shortage = records.shortage(schedule.batch_size) if schedule.shuffle else None
    if shortage is not None:
        # Of the caller of the reader that calls this.
        warnings.warn(shortage, stacklevel=3)
    return Opened(
        records,
        schedule,
        schedule.advance(Point(0, 0), step),
        conversion,
        positions=arguments.flag("positions", positions),
        check_crc=arguments.flag("check_crc", check_crc),
    )
