"""Opens a split for reading; both readers begin here."""

from __future__ import annotations

import dataclasses
import os

from pipeline.directory import RecordsDirectory
from pipeline.index import Index
from pipeline.manifest import DatasetInfo
from pipeline.order import Schedule
from pipeline.pixels import Conversion, ImageDtype
from pipeline.records import RecordReader


@dataclasses.dataclass(frozen=True)
class OpenSplit:
    """A split that is open for reading.

    Attributes:
        info: manifest of the records directory.
        reader: reads the split's records by position.
        schedule: the positions of each batch.
        conversion: from stored images to those that the caller gets.
    """

    info: DatasetInfo
    reader: RecordReader
    schedule: Schedule
    conversion: Conversion


def open_split(
    records: str | os.PathLike[str],
    split: str,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epochs: int | None,
    drop_remainder: bool,
    start_step: int,
    shard: tuple[int, int] | None,
    image_dtype: ImageDtype,
    standardize: bool,
    check_crc: bool,
) -> OpenSplit:
    """Opens a split; :func:`pipeline.iterate_batches` documents the arguments.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
    """
    conversion = Conversion(image_dtype, standardize)
    directory = RecordsDirectory(records)
    info = DatasetInfo.load(directory)
    schedule = Schedule(
        count=info.split(split).count,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        epochs=epochs,
        drop_remainder=drop_remainder,
        start_step=start_step,
        shard=shard,
    )
    reader = RecordReader(directory, info, Index.load(directory, info, split), check_crc=check_crc)
    return OpenSplit(info, reader, schedule, conversion)
