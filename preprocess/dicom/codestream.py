"""Checks how much memory compressed pixels would make a codec allocate, before a codec decodes them.

A codec takes its dimensions from the codestream, not from Rows and Columns: a few hundred bytes can claim
65,535 × 65,535 pixels. Run-length segments state no dimensions, and unpack to 64 times their own size.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLETransferSyntaxes

from preprocess.dicom.elements import unreadable

# Frame headers, SOF (ISO/IEC 10918-1 table B.1; 0xF7 of ISO/IEC 14495-1), and DHP, which precedes a hierarchy of them.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE, 0xF7}
_SCAN_HEADER = 0xDA

_BITS_ONLY = frozenset({0xC3, 0xC7, 0xCB, 0xCF, 0xF7})
"""Frame headers of lossless JPEG and of JPEG-LS, whose samples may be two's complement (PS3.5 8.2.1 and 8.2.3)."""

_CODESTREAM_START = b"\xff\x4f\xff\x51"
"""Start of Codestream, then Image and Tile Size, which must follow (ISO/IEC 15444-1 A.5.1)."""
_BOX_START = b"\x00\x00\x00\x0cjP  "

_RLE_HEADER = struct.Struct("<16I")


class Claim(NamedTuple):
    """What a codestream states about itself.

    Attributes:
        rows, columns, samples: its dimensions, and samples per pixel.
        precision: bits of a sample.
        signed: None where the codestream does not say; then the DICOM header does.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool | None

    @property
    def container(self) -> int:
        """Bits of the integer that a codec unpacks a sample to."""
        return max(8, 1 << (self.precision - 1).bit_length())


def check_codestream(frame: bytes, syntax: UID, shape: tuple[int, int]) -> Claim | None:
    """Checks that a frame of an encapsulated image agrees with the image's header.

    Args:
        frame: all fragments of the frame (PS3.5 A.4).
        syntax: its transfer syntax; only frames in JPEG, JPEG-LS, JPEG 2000 and RLE are checked.
        shape: Rows and Columns.

    Returns:
        What the codestream states; None where it states nothing or is not checked.

    Raises:
        InputError: ``unreadable_image``, they disagree, or the frame has no header.
    """
    if syntax in RLETransferSyntaxes:
        if _unpacks_beyond(frame, shape[0] * shape[1]):
            raise unreadable(
                f"a run-length segment unpacks to more than Rows × Columns, {shape[0]} × {shape[1]}, bytes"
            )
        return None
    if syntax in JPEG2000TransferSyntaxes:
        claim = _claim_of_jpeg_2000(frame)
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        claim = _claim_of_jpeg(frame)
    else:
        return None
    if claim is None:
        raise unreadable("its compressed pixels have no frame header")
    if (claim.rows, claim.columns, claim.samples) != (*shape, 1):
        raise unreadable(
            f"its compressed pixels are {claim.rows} × {claim.columns} with {claim.samples} samples, "
            f"{shape[0]} × {shape[1]} with 1 expected"
        )
    return claim


def _claim_of_jpeg(frame: bytes) -> Claim | None:
    """Reads the first frame header, which must come before the scan header (ISO/IEC 10918-1 B.2.2)."""
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAME_HEADERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            signed = None if marker in _BITS_ONLY else False
            return Claim(rows=rows, columns=columns, samples=samples, precision=precision, signed=signed)
        if marker == _SCAN_HEADER:
            return None
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _claim_of_jpeg_2000(frame: bytes) -> Claim | None:
    """Reads the Image and Tile Size (ISO/IEC 15444-1 A.5.1) of a codestream, which may lie in boxes (I.4)."""
    at = 0
    while frame.startswith(_BOX_START) and at + 16 <= len(frame):
        length, kind, longer = struct.unpack_from(">I4sQ", frame, at)
        if kind == b"jp2c":
            at += 16 if length == 1 else 8
            break
        at += max(8, longer if length == 1 else length or len(frame))
    if not frame.startswith(_CODESTREAM_START, at) or len(frame) < at + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
    samples, depth = struct.unpack_from(">HB", frame, at + 40)
    return Claim(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
    )


def _unpacks_beyond(frame: bytes, pixels: int) -> bool:
    """Whether a run-length segment (PS3.5 G.3) unpacks to more than one byte per pixel and a byte of padding."""
    if len(frame) < _RLE_HEADER.size:
        return False
    count, *offsets = _RLE_HEADER.unpack_from(frame)
    ends = [*offsets[1:count], len(frame)]
    return any(
        _unpacked(frame, start, min(end, len(frame)), pixels) > pixels + 1
        for start, end in zip(offsets[:count], ends, strict=False)
    )


def _unpacked(frame: bytes, at: int, end: int, limit: int) -> int:
    """Bytes that a segment unpacks to; counting stops above the limit and a byte of padding."""
    unpacked = 0
    while at < end and unpacked <= limit + 1:
        header = frame[at]
        if header > 128:
            unpacked += 257 - header
            at += 2
        elif header < 128:
            unpacked += header + 1
            at += header + 2
        else:
            at += 1
    return unpacked
