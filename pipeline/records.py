"""Reads records by position into arrays, with NumPy only.

The data of a record is a ``tf.train.Example``, in protobuf's wire format with its map sorted by key::

    | head: lengths, "image" | image bytes | gap: lengths, "mask" | mask bytes | tail: the meta features |

All records of a data set have the same shape and dtype, and ``image`` and ``mask`` sort first, so head and gap are
known before a record is read. The pixels are copied from the file straight to their array, and the bytes around them
are compared with those expected.
"""

from __future__ import annotations

import dataclasses
import math
import os
import resource
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline import schema
from pipeline.ahead import Ahead
from pipeline.directory import FileInfo
from pipeline.errors import RecordsError
from pipeline.frames import CHECKSUM_BYTES, FRAME_BYTES, LENGTH_BYTES, checksum_field, length_field
from pipeline.index import Index
from pipeline.manifest import DatasetInfo
from pipeline.remote import Directory, RemoteDirectory, open_directory
from pipeline.shards import CachedShards, Shard, Shards


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the pixels lie within a record's data.

    Args:
        image_bytes: bytes of one image.
        mask_bytes: bytes of one mask.
        highest_label: the largest value of a mask's byte.
    """

    image_bytes: int
    mask_bytes: int
    highest_label: int = 1

    @classmethod
    def of(cls, info: DatasetInfo) -> Self:
        """The layout of a data set's records."""
        sizes = {}
        for feature in schema.FEATURES:
            shape, dtype = feature.of(info.image_shape, np.dtype(info.image_dtype).name)
            if feature.shape is None:
                sizes[feature.name] = math.prod(shape) * np.dtype(dtype).itemsize
        return cls(sizes[schema.IMAGE], sizes[schema.MASK], max(1, len(info.mask_classes) - 1))

    @property
    def gap(self) -> bytes:
        """The bytes between image and mask."""
        return _entry(schema.MASK, self.mask_bytes)

    def head(self, data_bytes: int) -> bytes:
        """The bytes before the image in a record with ``data_bytes`` bytes of data.

        Raises:
            RecordsError: the data is too short to hold an image and a mask.
        """
        image = _entry(schema.IMAGE, self.image_bytes)
        # Example.features is field 1; the bytes that encode its length do not count towards that length.
        for length_bytes in range(1, 10):
            features = data_bytes - 1 - length_bytes
            if features >= 0 and len(_varint(features)) == length_bytes:
                head = b"\x0a" + _varint(features) + image
                if len(head) + self.image_bytes + len(self.gap) + self.mask_bytes <= data_bytes:
                    return head
        raise RecordsError(f"{data_bytes} bytes of data cannot hold an image of {self.image_bytes}")


def _entry(key: str, value_bytes: int) -> bytes:
    """The bytes before the value in a map entry ``key: Feature(bytes_list=BytesList(value=[...]))``."""
    value = b"\x0a" + _varint(value_bytes)
    values = b"\x0a" + _varint(len(value) + value_bytes) + value
    feature = b"\x12" + _varint(len(values) + value_bytes) + values
    name = b"\x0a" + _varint(len(key)) + key.encode("ascii")
    return b"\x0a" + _varint(len(name) + len(feature) + value_bytes) + name + feature


def _varint(number: int) -> bytes:
    """Protobuf's variable-width integer: seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class RecordReader:
    """Reads records by position.

    A shard is mapped into memory when it is first needed, and pixels are copied once, from the page cache to their
    array. This is faster than ``os.preadv`` (docs/PERFORMANCE.md). A lease keeps other processes from cutting a shard
    meanwhile. Where there is none (:class:`pipeline.shards.Shards`), a shard that shrinks between the check of its size
    and the copy ends the process (SIGBUS, see mmap(2)), as with any reader of memory maps.

    Several threads may read at the same time. A reader that is sent to another process opens the directory again.

    Args:
        directory: records directory.
        info: its manifest.
        index: where its records begin.

    Raises:
        RecordsError: a shard is missing; in another process, the directory now holds other records.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | Directory,
        info: DatasetInfo,
        index: Index,
    ) -> None:
        self._directory = open_directory(directory)
        self._info = info
        self._index = index
        self._shards = _shards(self._directory, info, index)
        self._layout = Layout.of(info)
        self._dtype = np.dtype(info.image_dtype)
        self._gap = self._layout.gap
        # By the size of a record's frame; there are about as many sizes as lengths of ids.
        self._heads: dict[int, bytes] = {}
        self._disk_was_read = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if DatasetInfo.read(self._directory) != self._info:
            raise RecordsError(f"{self._directory.path}: holds other records than when it was opened; open it again")

    def read(
        self,
        positions: npt.NDArray[np.int64],
        images: npt.NDArray[np.generic],
        masks: npt.NDArray[np.bool_ | np.uint8],
        check_crc: bool = True,
    ) -> None:
        """Fills arrays from the records at ``n`` positions.

        Args:
            positions: int64 ``(n,)``, not negative.
            images: of the stored dtype or float, C-contiguous ``(n, H, W, 1)``.
            masks: of the masks' dtype, C-contiguous ``(n, H, W, 1)``.
            check_crc: verify each record's CRC-32C.

        Raises:
            RecordsError: a shard changed after the reader was made, or a record is damaged; the message names shard,
                record and byte offset.
        """
        numbers = self._index.shard_of(positions).tolist()
        offsets, sizes = self._index.offsets[positions].tolist(), self._index.sizes[positions].tolist()
        image_rows, mask_rows = images.reshape(len(images), -1), masks.reshape(len(masks), -1).view(np.uint8)
        stored = self._dtype
        if images.dtype == stored:
            # Without conversion, bytes are copied: their alignment does not matter.
            stored, image_rows = np.dtype(np.uint8), image_rows.view(np.uint8)
        blocks_read = _blocks_read()
        for rows in self._shards.grouped(numbers):
            shards = self._shards.opened({numbers[row] for row in rows})
            if self._disk_was_read:
                for row in rows:
                    shards[numbers[row]].prefetch(offsets[row], sizes[row])
            for row in rows:
                number, offset = numbers[row], offsets[row]
                try:
                    self._read_one(
                        shards[number], offset, sizes[row], stored, image_rows[row], mask_rows[row], check_crc
                    )
                except RecordsError as error:
                    record = int(positions[row] - self._index.first[number])
                    raise self._shards.fault(number, f"record {record} at byte {offset}: {error}") from error
            # Unmaps what the cache removed, before the next ones are fetched.
            del shards
        self._disk_was_read = _blocks_read() != blocks_read

    def ahead(self, batches: Iterator[npt.NDArray[np.int64]]) -> Ahead | None:
        """Brings the shards of coming batches ahead; None if the directory is local.

        Args:
            batches: the positions of each, in the order in which they will be read.
        """
        if isinstance(self._shards, Shards):
            return None
        return Ahead(self._shards, ((len(batch), set(self._index.shard_of(batch).tolist())) for batch in batches))

    def shortage(self, positions: npt.NDArray[np.int64], batch_size: int) -> str | None:
        """What a shuffled epoch of these records costs because the cache is too small; None if it is not."""
        if isinstance(self._shards, Shards) or self._shards.fit(range(len(self._shards))):
            return None
        numbers = np.unique(self._index.shard_of(positions)).tolist()
        return self._shards.shortage(numbers, len(positions) // batch_size, batch_size)

    def _read_one(
        self,
        shard: Shard,
        offset: int,
        size: int,
        stored: np.dtype[np.generic],
        image: npt.NDArray[np.generic],
        mask: npt.NDArray[np.uint8],
        check_crc: bool,
    ) -> None:
        head = self._heads.get(size)
        if head is None:
            data_bytes = size - FRAME_BYTES
            head = self._heads[size] = length_field(data_bytes) + self._layout.head(data_bytes)
        content, octets, _ = shard
        image_at = offset + len(head)
        gap_at = image_at + self._layout.image_bytes
        mask_at = gap_at + len(self._gap)
        if content[offset:image_at] != head or content[gap_at:mask_at] != self._gap:
            raise RecordsError("the bytes around image and mask are not those of this format")
        image[:] = octets[image_at:gap_at].view(stored)
        mask[:] = octets[mask_at : mask_at + self._layout.mask_bytes]
        # Last: copying brings the record into the processor's cache, where the checksum takes half the time.
        if check_crc:
            end = offset + size - CHECKSUM_BYTES
            if content[end : offset + size] != checksum_field(octets[offset + LENGTH_BYTES : end]):
                raise RecordsError("CRC-32C does not match")


def _shards(directory: Directory, info: DatasetInfo, index: Index) -> Shards | CachedShards:
    if not isinstance(directory, RemoteDirectory):
        return Shards(directory, index.shards)
    every = {shard.name: shard for split in info.splits.values() for shard in split.shards}
    return CachedShards(directory, {name: FileInfo(every[name].bytes, every[name].sha256) for name in index.shards})


def _blocks_read() -> int:
    """Blocks that this process has read from a disk; Linux also counts those read ahead."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock
