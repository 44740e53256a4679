"""The frames of a TFRecord file.

A TFRecord file is a sequence of frames (TensorFlow, ``tensorflow/core/lib/io/record_writer.h``)::

    | length: uint64 | masked CRC-32C of length: uint32 | data: length bytes | masked CRC-32C of data: uint32 |

all of it little-endian.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.errors import RecordsError

CHECKSUM_BYTES = 4
"""Size of each checksum: one follows the length, one the data."""
LENGTH_BYTES = 8 + CHECKSUM_BYTES
"""Size of the length and its checksum, which precede the data."""
FRAME_BYTES = LENGTH_BYTES + CHECKSUM_BYTES
"""Bytes that a frame adds to its data."""


class Readable(Protocol):
    """What a file is read from."""

    def read(self, size: int, /) -> bytes: ...


def checksum_field(data: bytes | npt.NDArray[np.uint8]) -> bytes:
    """The masked CRC-32C of data.

    The mask is for data that itself contains checksums (``tensorflow/core/lib/hash/crc32c.h``).
    """
    checksum: int = google_crc32c.value(data)
    masked = (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(CHECKSUM_BYTES, "little")


def length_field(data_bytes: int) -> bytes:
    """The first 12 bytes of a frame with ``data_bytes`` bytes of data."""
    length = data_bytes.to_bytes(8, "little")
    return length + checksum_field(length)


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The parts of a frame, in order."""
    return length_field(len(data)), data, checksum_field(data)


def scan(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields ``(offset, data)`` of each frame of a TFRecord file, in order, checking every checksum.

    Raises:
        RecordsError: the file ends within a frame, or a checksum does not match; the message names the byte.
    """
    with path.open("rb") as file:
        yield from scan_open(file, os.fstat(file.fileno()).st_size, os.fspath(path))


def scan_open(file: Readable, size: int, name: str) -> Iterator[tuple[int, bytes]]:
    """As :func:`scan`, of an open file of ``size`` bytes, which messages call ``name``; it is read once, in order."""
    remaining = size
    offset = 0
    while remaining:
        field = file.read(LENGTH_BYTES)
        if len(field) < LENGTH_BYTES:
            raise RecordsError(f"{name}: ends within the header of the record at byte {offset}")
        length = int.from_bytes(field[:8], "little")
        if field != length_field(length):
            raise RecordsError(f"{name}: CRC-32C of the length at byte {offset} does not match")
        # Checked before reading, so that a length beyond the end of the file is not allocated.
        if length + FRAME_BYTES > remaining:
            raise RecordsError(f"{name}: ends within the record at byte {offset}")
        data = file.read(length)
        if file.read(CHECKSUM_BYTES) != checksum_field(data):
            raise RecordsError(f"{name}: CRC-32C of the record at byte {offset} does not match")
        yield offset, data
        offset += length + FRAME_BYTES
        remaining -= length + FRAME_BYTES
