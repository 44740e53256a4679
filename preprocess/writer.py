"""pairs → shards, published whole.

Everything is written to a sibling directory, named ``.OUTPUT.partial-…``, and renamed into place when it is complete:
the output directory is never there in part.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

import pipeline
from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo, SplitInfo
from pipeline.records import FRAME_BYTES
from preprocess import tfds
from preprocess.errors import InputError
from preprocess.study import Pair

SHARD_BYTES = 128 << 20
"""About the size of a shard, where their number is not given."""


def check_output(output_dir: pathlib.Path, overwrite: bool) -> None:
    """Refuses an output directory that must not be replaced.

    Raises:
        InputError: it exists and ``overwrite`` is off, or it is no records directory of ours.
    """
    if not os.path.lexists(output_dir):
        return
    if not overwrite:
        raise InputError(str(output_dir), "exists already; choose another --output_dir, or pass --overwrite")
    try:
        DatasetInfo.read(output_dir)
    except (RecordsError, OSError) as error:
        raise InputError(
            str(output_dir), f"is no records directory ({error}), so it is not replaced; remove it yourself"
        ) from error


class RecordsWriter:
    """Writes a records directory, and publishes it whole or not at all.

    Use as a context manager: what was not published is removed at the end of the block.

    Args:
        output_dir: records directory to create.
        overwrite: replace an earlier one, in one step.
        shape: rows and columns of every image and mask.
        image_dtype: of every image.
        planned: how many records each split gets at most; the shards are cut by it.
        num_shards: per split, or None for about ``SHARD_BYTES`` each. A split has no more shards than records.

    Raises:
        InputError: the output directory must not be replaced, or cannot be written.
    """

    def __init__(
        self,
        output_dir: pathlib.Path,
        overwrite: bool,
        shape: tuple[int, int],
        image_dtype: np.dtype[Any],
        planned: Mapping[str, int],
        num_shards: int | None,
    ) -> None:
        self._output = pathlib.Path(os.path.abspath(output_dir))
        check_output(self._output, overwrite)
        self._overwrite = overwrite
        self._shape = (*shape, 1)
        self.image_dtype = image_dtype
        try:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._partial = pathlib.Path(
                tempfile.mkdtemp(prefix=f".{self._output.name}.partial-", dir=self._output.parent)
            )
        except OSError as error:
            raise InputError(str(output_dir), f"cannot be written: {error.strerror}") from error
        record_bytes = shape[0] * shape[1] * (image_dtype.itemsize + 1)
        self._splits = {
            name: _SplitWriter(self._partial, name, count, num_shards or -(-count * record_bytes // SHARD_BYTES))
            for name, count in planned.items()
        }

    def write(self, split: str, pair: Pair, image: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]) -> None:
        """Adds a record: ``image`` ``(H, W)`` of the data set's dtype, ``mask`` bool ``(H, W)``."""
        self._splits[split].write(_serialize(pair, image.astype(self.image_dtype.newbyteorder("<")), mask))

    def publish(
        self, studies: Mapping[str, Sequence[str]], settings: Mapping[str, Any], tables: Mapping[str, bytes]
    ) -> DatasetInfo:
        """Completes the directory and moves it into place.

        Args:
            studies: the studies of each split.
            settings: what the manifest keeps of the settings.
            tables: content of the audit and of the tables beside it, by file name.

        Raises:
            InputError: the output directory came into being meanwhile.
        """
        splits = {name: SplitInfo(tuple(studies[name]), writer.close()) for name, writer in self._splits.items()}
        dtype = self.image_dtype.name
        for name, content in tables.items():
            self._add(name, content)
        self._add(schema.FEATURES_FILE, tfds.features(self._shape, dtype))
        self._add(schema.DATASET_INFO_FILE, tfds.dataset_info(splits))
        shards = {shard.name for split in splits.values() for shard in split.shards}
        info = DatasetInfo(
            image_shape=self._shape,
            image_dtype=np.dtype(dtype),
            splits=splits,
            files={path.name: FileInfo.of(path) for path in sorted(self._partial.iterdir()) if path.name not in shards},
            settings=settings,
            tool_version=pipeline.__version__,
        )
        self._add(schema.MANIFEST_FILE, info.dump())
        for path in (*self._partial.iterdir(), self._partial):
            _sync(path)
        # mkdtemp makes it for its owner alone; a published directory has the mode any new one has.
        mask = os.umask(0)
        os.umask(mask)
        self._partial.chmod(0o777 & ~mask)
        self._move_into_place()
        return info

    def _add(self, name: str, content: bytes) -> None:
        (self._partial / name).write_bytes(content)

    def _move_into_place(self) -> None:
        check_output(self._output, self._overwrite)
        if self._output.exists():
            _exchange(self._partial, self._output)
        else:
            self._partial.rename(self._output)
        _sync(self._output.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an exchange the former output lies here.
        shutil.rmtree(self._partial, ignore_errors=True)


class _SplitWriter:
    """The shards of one split, one after the other."""

    def __init__(self, directory: pathlib.Path, split: str, planned: int, num_shards: int) -> None:
        self._directory = directory
        self._split = split
        self._planned = planned
        self._num_shards = min(max(1, num_shards), planned)
        self._sizes: list[list[int]] = []
        self._writer: tf.io.TFRecordWriter | None = None

    def write(self, data: bytes) -> None:
        written = sum(map(len, self._sizes))
        if written == len(self._sizes) * self._planned // self._num_shards:
            self._open_next()
        assert self._writer is not None
        self._writer.write(data)
        self._sizes[-1].append(len(data) + FRAME_BYTES)

    def _open_next(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = tf.io.TFRecordWriter(os.fspath(self._partial_shard(len(self._sizes))))
        self._sizes.append([])

    def _partial_shard(self, index: int) -> pathlib.Path:
        # The names carry the number of shards, which is known only when the last record is written.
        return self._directory / f"{self._split}-{index:05d}"

    def close(self) -> tuple[ShardInfo, ...]:
        """Gives the shards their names and indexes."""
        if self._writer is not None:
            self._writer.close()
        shards = []
        for index, sizes in enumerate(self._sizes):
            path = self._directory / schema.shard_name(self._split, index, len(self._sizes))
            self._partial_shard(index).rename(path)
            offsets = np.cumsum([0, *sizes])[:-1]
            lines = "".join(f"{offset} {size}\n" for offset, size in zip(offsets, sizes, strict=True))
            (self._directory / schema.index_name(path.name)).write_text(lines, "ascii")
            shards.append(ShardInfo(path.name, len(sizes), **dataclasses.asdict(FileInfo.of(path))))
        return tuple(shards)


def _serialize(pair: Pair, image: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]) -> bytes:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_text(value: str) -> tf.train.Feature:
        return of_bytes(value.encode("utf-8", "surrogateescape"))

    def of_integer(value: int | None) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[-1 if value is None else value]))

    def of_floats(*values: float) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    feature = {
        schema.IMAGE: of_bytes(image.tobytes()),
        schema.MASK: of_bytes(mask.tobytes()),
        schema.STUDY_ID: of_text(pair.study_id),
        schema.CONTOUR_ID: of_text(pair.contour_id),
        schema.INSTANCE_NUMBER: of_integer(pair.header.instance_number),
        schema.SLICE_INDEX: of_integer(pair.slice_index),
        schema.PHASE_INDEX: of_integer(pair.phase_index),
        schema.PIXEL_SPACING_MM: of_floats(*pair.header.pixel_spacing_mm),
        schema.SLICE_LOCATION_MM: of_floats(pair.header.location_mm),
    }
    # Deterministic: protobuf otherwise leaves the order of a map open, and with it the place of the pixels.
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True))


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> None:
    """Swaps two directories in one step where the system can (Linux, renameat2), else in two renames."""
    at_working_directory, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(one), os.fsencode(other)
        if renameat2(at_working_directory, paths[0], at_working_directory, paths[1], exchange) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), os.fspath(other))
    former = one.with_name(f"{one.name}-former")
    other.rename(former)
    one.rename(other)
    former.rename(one)
