"""pairs → shards, and what lies beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import pipeline
from pipeline import schema, table
from pipeline.frames import frame
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo, SplitInfo
from preprocess.model import Key, Pair
from preprocess.output import tfds
from preprocess.output.destinations import Destination
from preprocess.output.example import Example

SHARD_BYTES = 128 << 20
"""About the size of a shard, where their number is not given."""


_KNOWN = (
    "study_id", "contour_id", "split", "instance_number", "slice_index", "phase_index", "pixel_spacing_mm",
    "slice_location_mm",
)  # fmt: skip


class Record(NamedTuple):
    """A pair as it is on the grid of the records.

    Attributes:
        image: ``(H, W)`` of the data set's dtype.
        mask: ``(H, W)``, bool, or uint8 for a label map.
    """

    pair: Pair
    image: npt.NDArray[np.generic]
    mask: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard that was written, beside its index.

    Attributes:
        split: the split.
        name: its name; it gets another one if a shard of the split before it has no records.
        file: its size and digest.
        index: those of its index.
        rows: the columns ``_KNOWN`` of the row of each of its records in the table of records.
    """

    split: str
    name: str
    file: FileInfo
    index: FileInfo
    rows: Sequence[tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class RecordSpec:
    """What holds for all records of a directory.

    Attributes:
        shape: rows and columns of every image and mask.
        image_dtype: of every image.
        mask_classes: what each value of a label map means; empty for binary masks.
    """

    shape: tuple[int, int]
    image_dtype: np.dtype[Any]
    mask_classes: tuple[str, ...] = ()


def cut(count: int, num_shards: int | None, spec: RecordSpec) -> list[slice]:
    """The records of each shard of a split, spread evenly, at least one each.

    Args:
        count: records of the split.
        num_shards: at most this many, or None for shards of about ``SHARD_BYTES``.
        spec: shape and dtype of the records.
    """
    record_bytes = spec.shape[0] * spec.shape[1] * (spec.image_dtype.itemsize + 1)
    shards = min(count, num_shards or max(1, -(-count * record_bytes // SHARD_BYTES)))
    ends = [index * count // shards for index in range(shards + 1)] if shards else []
    return [slice(*ends_of_one) for ends_of_one in itertools.pairwise(ends)]


def write_shard(destination: Destination, name: str, split: str, records: Iterable[Record]) -> Shard | None:
    """Writes one shard and its index, which appear complete or not at all.

    Args:
        destination: where to put them.
        name: of the shard; it is replaced if it exists.
        split: the split.
        records: its records, in order.

    Returns:
        The shard; None if there are no records, and then no file.

    Raises:
        OSError: it cannot be written.
        FatalInputError: the store does not take it.
    """
    digest = hashlib.sha256()
    rows, lines, size = [], [], 0
    # Another process may write the same shard at the same time: a cluster may repeat a task that is slow.
    with tempfile.TemporaryDirectory(dir=destination.scratch) as folder:
        partial = pathlib.Path(folder, name)
        with partial.open("wb") as file:
            for record in records:
                offset = size
                for part in frame(_serialize(record)):
                    file.write(part)
                    digest.update(part)
                    size += len(part)
                lines.append(f"{offset} {size - offset}\n")
                rows.append(_known(split, record.pair))
        if not rows:
            return None
        index_name, index = schema.index_name(name), "".join(lines).encode("ascii")
        pathlib.Path(folder, index_name).write_bytes(index)
        destination.put(pathlib.Path(folder, index_name), index_name)
        destination.put(partial, name)
    return Shard(split, name, FileInfo(size, digest.hexdigest()), _info(index), rows)


def write_split(
    destination: Destination,
    split: str,
    records: Iterator[Record],
    count: int,
    num_shards: int | None,
    spec: RecordSpec,
) -> list[Shard]:
    """Writes the ``count`` records of a split, one shard after the other."""
    parts = cut(count, num_shards, spec)
    names = (schema.shard_name(split, index, len(parts)) for index in range(len(parts)))
    written = (
        write_shard(destination, name, split, itertools.islice(records, part.stop - part.start))
        for name, part in zip(names, parts, strict=True)
    )
    return [shard for shard in written if shard]


def complete(
    destination: Destination,
    spec: RecordSpec,
    shards: Iterable[Shard],
    studies: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    tables: Mapping[str, bytes],
    measured: Mapping[Key, Mapping[str, Any]],
) -> DatasetInfo:
    """Completes a records directory of shards, except for the manifest, which makes it one.

    Args:
        destination: where the shards are.
        spec: of all records.
        shards: those of each split in order.
        studies: the studies of each split.
        settings: what the manifest keeps of the job's settings.
        tables: content of the audit and of the tables beside it, by file name.
        measured: more columns of the table of records, by study and number.

    Returns:
        The manifest.
    """
    of_split: dict[str, list[Shard]] = {name: [] for name in sorted(studies)}
    for shard in shards:
        of_split[shard.split].append(shard)
    splits = {name: SplitInfo(tuple(studies[name]), _named(destination, of)) for name, of in of_split.items()}
    known = [dict(zip(_KNOWN, row, strict=True)) for of in of_split.values() for shard in of for row in shard.rows]
    rows = [table.row({**measured.get((row["study_id"], row["instance_number"]), {}), **row}) for row in known]
    shape, dtype = (*spec.shape, 1), spec.image_dtype.name
    files = {
        **tables,
        schema.TABLE_FILE: table.dump(table.build(rows)),
        schema.FEATURES_FILE: tfds.features(shape, dtype, spec.mask_classes),
        schema.DATASET_INFO_FILE: tfds.dataset_info(splits, bool(spec.mask_classes), destination.prefix),
    }
    for name, content in files.items():
        destination.write(name, content)
    indexes = {
        schema.index_name(named.name): shard.index
        for name, of in of_split.items()
        for named, shard in zip(splits[name].shards, of, strict=True)
    }
    return DatasetInfo(
        image_shape=shape,
        image_dtype=np.dtype(dtype),
        splits=splits,
        files=dict(
            sorted({**indexes, **{f"{destination.prefix}{name}": _info(file) for name, file in files.items()}}.items())
        ),
        settings=settings,
        tool_version=pipeline.__version__,
        mask_classes=spec.mask_classes,
    )


def _named(destination: Destination, shards: Sequence[Shard]) -> tuple[ShardInfo, ...]:
    """Numbers the shards of a split without those that have no records."""
    named = []
    for index, shard in enumerate(shards):
        name = schema.shard_name(shard.split, index, len(shards))
        destination.settle(schema.index_name(shard.name), schema.index_name(name))
        destination.settle(shard.name, name)
        named.append(ShardInfo(f"{destination.prefix}{name}", len(shard.rows), shard.file.bytes, shard.file.sha256))
    return tuple(named)


def _info(content: bytes) -> FileInfo:
    return FileInfo(len(content), hashlib.sha256(content).hexdigest())


def _known(split: str, pair: Pair) -> tuple[Any, ...]:
    """The columns ``_KNOWN`` of a record's row in the table of records."""
    return (
        pair.study_id, pair.contour_id, split, pair.instance_number, pair.slice_index, pair.phase_index,
        pair.header.pixel_spacing_mm, pair.header.location_mm,
    )  # fmt: skip


def _serialize(record: Record) -> bytes:
    pair = record.pair
    values = {
        schema.IMAGE: record.image.astype(record.image.dtype.newbyteorder("<"), copy=False),
        schema.MASK: record.mask,
        schema.STUDY_ID: pair.study_id,
        schema.CONTOUR_ID: pair.contour_id,
        schema.INSTANCE_NUMBER: -1 if pair.header.instance_number is None else pair.header.instance_number,
        schema.SLICE_INDEX: -1 if pair.slice_index is None else pair.slice_index,
        schema.PHASE_INDEX: -1 if pair.phase_index is None else pair.phase_index,
        schema.PIXEL_SPACING_MM: pair.header.pixel_spacing_mm,
        schema.SLICE_LOCATION_MM: pair.header.location_mm,
    }
    example = Example()
    for feature in schema.FEATURES:
        _add(example.features.feature[feature.name], feature, values[feature.name])
    # Deterministic: protobuf otherwise leaves the order of a map open, and so the position of the pixels.
    return bytes(example.SerializeToString(deterministic=True))


def _add(message: Any, feature: schema.Feature, value: Any) -> None:
    """Adds the value of a feature to its message."""
    if feature.kind == "bytes":
        data = value.encode("utf-8", "surrogateescape") if feature.dtype == "str" else value.tobytes()
        message.bytes_list.value.append(data)
        return
    numbers = value if feature.shape else [value]
    (message.int64_list if feature.kind == "int64" else message.float_list).value.extend(numbers)
