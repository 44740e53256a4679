"""pairs → shards, and what lies beside them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

import pipeline
from pipeline import schema, table
from pipeline.frames import FRAME_BYTES, frame
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo, SplitInfo
from preprocess.model import Key, Pair
from preprocess.output import tfds
from preprocess.output.example import Example

SHARD_BYTES = 128 << 20
"""About the size of a shard, where their number is not given."""


_KNOWN = (
    "study_id", "contour_id", "split", "instance_number", "slice_index", "phase_index", "pixel_spacing_mm",
    "slice_location_mm",
)  # fmt: skip


class RecordsWriter:
    """Writes a records directory; no file stays open after a ``with`` block.

    Args:
        directory: an empty directory.
        shape: rows and columns of every image and mask.
        image_dtype: of every image.
        planned: how many records each split gets at most; the shards are cut by it.
        num_shards: per split, or None for about ``SHARD_BYTES`` each. A split has no more shards than records.
        mask_classes: what each value of a label map means; empty for binary masks.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        shape: tuple[int, int],
        image_dtype: np.dtype[Any],
        planned: Mapping[str, int],
        num_shards: int | None,
        mask_classes: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._shape = (*shape, 1)
        self._mask_classes = mask_classes
        self.image_dtype = image_dtype
        record_bytes = shape[0] * shape[1] * (image_dtype.itemsize + 1)
        self._splits = {
            name: _SplitWriter(directory, name, count, num_shards or -(-count * record_bytes // SHARD_BYTES))
            for name, count in planned.items()
        }

    def write(
        self,
        split: str,
        pair: Pair,
        image: npt.NDArray[np.generic],
        mask: npt.NDArray[Any],
    ) -> None:
        """Adds a record.

        Args:
            split: name of its split.
            pair: the pair, as it is on the grid of the records.
            image: ``(H, W)`` of the data set's dtype.
            mask: ``(H, W)``, bool, or uint8 for a label map.
        """
        data = _serialize(pair, image.astype(self.image_dtype.newbyteorder("<")), mask)
        self._splits[split].write(data, _known(split, pair))

    def complete(
        self,
        studies: Mapping[str, Sequence[str]],
        settings: Mapping[str, Any],
        tables: Mapping[str, bytes],
        measured: Mapping[Key, Mapping[str, Any]],
    ) -> DatasetInfo:
        """Completes the directory, the manifest last.

        Args:
            studies: the studies of each split.
            settings: what the manifest keeps of the settings.
            tables: content of the audit and of the tables beside it, by file name.
            measured: more columns of the table of records, by study and number.
        """
        splits = {
            name: SplitInfo(tuple(studies[name]), writer.complete()) for name, writer in sorted(self._splits.items())
        }
        dtype = self.image_dtype.name
        known = [
            dict(zip(_KNOWN, row, strict=True)) for _, writer in sorted(self._splits.items()) for row in writer.rows
        ]
        rows = [table.row({**measured.get((row["study_id"], row["instance_number"]), {}), **row}) for row in known]
        files = {
            **tables,
            schema.TABLE_FILE: table.dump(table.build(rows)),
            schema.FEATURES_FILE: tfds.features(self._shape, dtype, bool(self._mask_classes)),
            schema.DATASET_INFO_FILE: tfds.dataset_info(splits, bool(self._mask_classes)),
        }
        for name, content in files.items():
            (self._directory / name).write_bytes(content)
        shards = {shard.name for split in splits.values() for shard in split.shards}
        info = DatasetInfo(
            image_shape=self._shape,
            image_dtype=np.dtype(dtype),
            splits=splits,
            files={
                path.name: FileInfo.of(path) for path in sorted(self._directory.iterdir()) if path.name not in shards
            },
            settings=settings,
            tool_version=pipeline.__version__,
            mask_classes=self._mask_classes,
        )
        (self._directory / schema.MANIFEST_FILE).write_bytes(info.dump())
        return info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._splits.values():
            writer.close()


class _SplitWriter:
    """The shards of one split, one after the other."""

    def __init__(self, directory: pathlib.Path, split: str, planned: int, num_shards: int) -> None:
        self._directory = directory
        self._split = split
        self._planned = planned
        self._num_shards = min(max(1, num_shards), planned)
        self._sizes: list[list[int]] = []
        self._file: BinaryIO | None = None
        self.rows: list[tuple[Any, ...]] = []

    def write(self, data: bytes, row: tuple[Any, ...]) -> None:
        written = sum(map(len, self._sizes))
        if written == len(self._sizes) * self._planned // self._num_shards:
            self._open_next()
        assert self._file is not None
        self._file.writelines(frame(data))
        self._sizes[-1].append(len(data) + FRAME_BYTES)
        self.rows.append(row)

    def _open_next(self) -> None:
        self.close()
        self._file = self._partial_shard(len(self._sizes)).open("wb")
        self._sizes.append([])

    def _partial_shard(self, index: int) -> pathlib.Path:
        # The names carry the number of shards, which is known only when the last record is written.
        return self._directory / f"{self._split}-{index:05d}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def complete(self) -> tuple[ShardInfo, ...]:
        """Gives the shards their names and indexes."""
        self.close()
        shards = []
        for index, sizes in enumerate(self._sizes):
            path = self._directory / schema.shard_name(self._split, index, len(self._sizes))
            self._partial_shard(index).rename(path)
            offsets = np.cumsum([0, *sizes])[:-1]
            lines = "".join(f"{offset} {size}\n" for offset, size in zip(offsets, sizes, strict=True))
            (self._directory / schema.index_name(path.name)).write_text(lines, "ascii")
            shards.append(ShardInfo(path.name, len(sizes), **dataclasses.asdict(FileInfo.of(path))))
        return tuple(shards)


def _known(split: str, pair: Pair) -> tuple[Any, ...]:
    """The columns ``_KNOWN`` of a record's row in the table of records."""
    return (
        pair.study_id, pair.contour_id, split, pair.instance_number, pair.slice_index, pair.phase_index,
        pair.header.pixel_spacing_mm, pair.header.location_mm,
    )  # fmt: skip


def _serialize(pair: Pair, image: npt.NDArray[np.generic], mask: npt.NDArray[Any]) -> bytes:
    values = {
        schema.IMAGE: image,
        schema.MASK: mask,
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
