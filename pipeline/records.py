"""Positions → arrays: TFRecord framing, and the place of the pixels within a record. NumPy only.

A TFRecord file is a row of frames (TensorFlow, ``tensorflow/core/lib/io/record_writer.h``)::

    | length: uint64 | masked CRC-32C of length: uint32 | data: length bytes | masked CRC-32C of data: uint32 |

and the data of ours is a ``tf.train.Example``, in protobuf's wire format with its map sorted by key::

    | head: lengths, "image" | image bytes | gap: lengths, "mask" | mask bytes | tail: the meta features |

All records of a data set share one shape and dtype, and ``image`` and ``mask`` sort first: head and gap are known
before a record is read. So the pixels go from the file straight to their array, and what surrounds them is compared.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import crc32c
import numpy as np
import numpy.typing as npt

from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.index import Index
from pipeline.manifest import DatasetInfo

LENGTH_BYTES = 12
"""The length field and its checksum, before the data."""
FRAME_BYTES = LENGTH_BYTES + 4
"""All that a frame adds to its data."""

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")

# Shards beyond this many are closed again, the one opened first before the others: a process may often hold 1,024.
_OPEN_SHARDS = 256


def masked(checksum: int) -> int:
    """TFRecord's mask of a CRC-32C (``tensorflow/core/lib/hash/crc32c.h``), against checksums of checksums."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def length_field(data_bytes: int) -> bytes:
    """The first 12 bytes of a frame whose data has that many bytes."""
    length = struct.pack("<Q", data_bytes)
    return length + _CHECKSUM.pack(masked(crc32c.crc32c(length)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the pixels lie within a record's data.

    Args:
        image_bytes: bytes of one image.
        mask_bytes: bytes of one mask.
    """

    image_bytes: int
    mask_bytes: int

    @classmethod
    def of(cls, info: DatasetInfo) -> Self:
        """The layout of a data set's records."""
        pixels = int(np.prod(info.image_shape))
        return cls(pixels * np.dtype(info.image_dtype).itemsize, pixels)

    @property
    def gap(self) -> bytes:
        """What stands between image and mask."""
        return _entry(schema.MASK, self.mask_bytes)

    def head(self, data_bytes: int) -> bytes:
        """What stands before the image, in a record whose data has that many bytes.

        Raises:
            RecordsError: the data is too short to hold an image and a mask.
        """
        image = _entry(schema.IMAGE, self.image_bytes)
        # Example.features is field 1; the bytes of its length come off the length itself.
        for length_bytes in range(1, 10):
            features = data_bytes - 1 - length_bytes
            if features >= 0 and len(_varint(features)) == length_bytes:
                head = b"\x0a" + _varint(features) + image
                if len(head) + self.image_bytes + len(self.gap) + self.mask_bytes <= data_bytes:
                    return head
        raise RecordsError(f"{data_bytes} bytes of data cannot hold an image of {self.image_bytes}")


def _entry(key: str, value_bytes: int) -> bytes:
    """All of a map entry ``key: Feature(bytes_list=BytesList(value=[...]))`` that stands before the value."""
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
    """Reads records of one split by position.

    Shards are opened when they are first needed and closed by :meth:`close`, or at the end of a ``with`` block.

    Args:
        directory: records directory.
        info: its manifest.
        index: the split's index.
        check_crc: verify each record's CRC-32C.
    """

    def __init__(
        self, directory: str | os.PathLike[str], info: DatasetInfo, index: Index, *, check_crc: bool = True
    ) -> None:
        self._directory = pathlib.Path(directory)
        self._index = index
        self._layout = Layout.of(info)
        self._gap = self._layout.gap
        # By the size of a record's frame; there are about as many as lengths of ids.
        self._heads: dict[int, bytes] = {}
        self._check_crc = check_crc
        self._descriptors: collections.OrderedDict[int, int] = collections.OrderedDict()

    def read(
        self, positions: npt.NDArray[np.int64], images: npt.NDArray[np.generic], masks: npt.NDArray[np.bool_]
    ) -> None:
        """Fills ``images`` (stored dtype) and ``masks``, both C-contiguous ``(n, H, W, 1)``, from ``n`` positions.

        Raises:
            RecordsError: a record is damaged; the message names shard, record and byte offset.
        """
        image_rows = images.reshape(len(images), -1).view(np.uint8)
        mask_rows = masks.reshape(len(masks), -1).view(np.uint8)
        shards = self._index.shard_of(positions)
        for position, shard, image, mask in zip(positions, shards, image_rows, mask_rows, strict=True):
            self._read_one(int(position), int(shard), image, mask)

    def _read_one(self, position: int, shard: int, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
        offset = int(self._index.offsets[position])
        size = int(self._index.sizes[position])
        with self._naming(shard, position, offset):
            expected_head = self._heads.get(size)
            if expected_head is None:
                data_bytes = size - FRAME_BYTES
                expected_head = self._heads[size] = length_field(data_bytes) + self._layout.head(data_bytes)
            head, gap = bytearray(len(expected_head)), bytearray(len(self._gap))
            tail = bytearray(size - len(head) - len(image) - len(gap) - len(mask))
            buffers: list[bytearray | memoryview] = [head, image.data, gap, mask.data, tail]
            if os.preadv(self._open(shard), buffers, offset) != size:
                raise RecordsError("the shard ends within the record")
            if head != expected_head or gap != self._gap:
                raise RecordsError("the bytes around image and mask are not those of this format")
            if self._check_crc:
                checksum = crc32c.crc32c(memoryview(head)[LENGTH_BYTES:])
                for part in (image.data, gap, mask.data, memoryview(tail)[:-4]):
                    checksum = crc32c.crc32c(part, checksum)
                if tail[-4:] != _CHECKSUM.pack(masked(checksum)):
                    raise RecordsError("CRC-32C does not match")

    @contextlib.contextmanager
    def _naming(self, shard: int, position: int, offset: int) -> Iterator[None]:
        """Says of an error which record it was."""
        try:
            yield
        except (RecordsError, OSError) as error:
            path = self._directory / self._index.shards[shard]
            record = position - int(self._index.first[shard])
            raise RecordsError(
                f"{path}: record {record} at byte {offset}: {error}; see python -m pipeline.verify {self._directory}"
            ) from error

    def _open(self, shard: int) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) == _OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            path = self._directory / self._index.shards[shard]
            self._descriptors[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]

    def close(self) -> None:
        """Closes every shard."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def scan(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields ``(offset, data)`` of each frame of a TFRecord file, in order, checking every checksum.

    Raises:
        RecordsError: the file ends within a frame, or a checksum does not match; the message names the byte.
    """
    with path.open("rb") as file:
        remaining = os.fstat(file.fileno()).st_size
        offset = 0
        while remaining:
            field = file.read(LENGTH_BYTES)
            if len(field) < LENGTH_BYTES:
                raise RecordsError(f"{path}: ends within the header of the record at byte {offset}")
            length, _ = _LENGTH.unpack(field)
            if field != length_field(length):
                raise RecordsError(f"{path}: CRC-32C of the length at byte {offset} does not match")
            # Asked before reading: a length beyond the file must not be allocated.
            if length + FRAME_BYTES > remaining:
                raise RecordsError(f"{path}: ends within the record at byte {offset}")
            data = file.read(length)
            if file.read(4) != _CHECKSUM.pack(masked(crc32c.crc32c(data))):
                raise RecordsError(f"{path}: CRC-32C of the record at byte {offset} does not match")
            yield offset, data
            offset += length + FRAME_BYTES
            remaining -= length + FRAME_BYTES
