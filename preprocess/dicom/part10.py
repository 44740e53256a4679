"""A DICOM file (PS3.10) → its elements, with a bound on what is parsed and on what is inflated.

pydicom trusts a file: it inflates a deflated one whole, reads as many bytes as a length asks for, and makes an object
of each item of every sequence of undefined length, wanted or not. So 200 KB can become gigabytes, and 100 MB can take
minutes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import zlib
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, cast

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from preprocess.dicom.elements import describe, foreign_code, unreadable, unsupported
from preprocess.findings import InputError

MAX_HEADER_BYTES = 1 << 19
"""Bytes that may be parsed besides the pixels. Elements that are skipped, such as private ones, do not count."""

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PIXELS: Mapping[int, str] = {Tag(keyword): keyword for keyword in PIXEL_KEYWORDS}

MAX_VALUE_BYTES = 1024
"""Bytes allowed for one element's value, except pixels and sequences. None needs more than sixteen numbers or 64
characters, and pydicom would make an object of a hundred bytes of each one-byte number."""

# Real headers have 2 KB to 3 KB.
_HEAD_BYTES = 1 << 14

# The largest pixels are those of Double Float Pixel Data (PS3.3 C.7.6.26).
_MAX_BYTES_PER_PIXEL = 8

RAISE_THE_LIMIT = "raise --max_image_pixels if this is right"
"""What to do about an image that is larger than is allowed."""


Names = tuple[str | int, ...]
"""Keywords, and tags of elements that have none."""


class Elements(NamedTuple):
    """What was read from a file.

    Attributes:
        dataset: its elements.
        pixels: keyword of the element that holds its pixels, whether they were read or not; None without pixels.
        digest: SHA-256 of all bytes parsed, or of the file; for the same names, another digest means another file.
            Only if the pixels are among them.
    """

    dataset: pydicom.FileDataset
    pixels: str | None
    digest: bytes


def read_elements(file: BinaryIO, names: Names, max_image_pixels: int) -> Elements:
    """Reads elements of a DICOM file, and nothing after its pixels.

    Args:
        file: a DICOM file (PS3.10).
        names: the elements to read. If pixels are not among them, reading stops at the pixels.
        max_image_pixels: how many pixels it may have.

    Raises:
        InputError: ``unreadable_image``, or ``unsupported_image`` where it is over a limit.
    """
    max_pixel_bytes = _MAX_BYTES_PER_PIXEL * max_image_pixels
    if elements := _from_memory(file, names, max_pixel_bytes):
        return elements
    with foreign_code("it cannot be read as a DICOM file"):
        try:
            elements = _parse(_Bounded(file, max_pixel_bytes), names)
        except DeflatedError as deflated:
            limit = MAX_HEADER_BYTES + max_pixel_bytes
            inflated = inflate(file, deflated.start, limit, RAISE_THE_LIMIT)
            elements = _parse(_Bounded(inflated, max_pixel_bytes), names)
        # A file may give the element several values, or another type than UI.
        syntax = elements.dataset.file_meta.get("TransferSyntaxUID")
        if syntax and isinstance(syntax, UID):
            return elements
    raise unreadable("it has no Transfer Syntax UID (0002,0010); the file may be cut short")


def _from_memory(file: BinaryIO, names: Names, max_pixel_bytes: int) -> Elements | None:
    """The elements of a file that is too small to exceed a limit; or of its start, if pixels are not wanted.

    pydicom parses memory faster than a file that counts bytes. None if the file is larger, or if anything is unusual.
    """
    with_pixels = bool(_PIXELS.keys() & _tags(names))
    most = min(MAX_HEADER_BYTES, max_pixel_bytes) if with_pixels else _HEAD_BYTES
    with contextlib.suppress(Exception):
        content = file.read(most)
        ends = not file.read(1)
        file.seek(0)
        # A deflated file has its UID somewhere.
        if (with_pixels and not ends) or DeflatedExplicitVRLittleEndian.encode() in content:
            return None
        elements = _parse(_Bounded(io.BytesIO(content), None), names)
        # Without pixels, the elements may go on after these bytes.
        if elements.pixels and elements.dataset.file_meta.get("TransferSyntaxUID"):
            return elements._replace(digest=hashlib.sha256(content).digest()) if with_pixels else elements
    return None


def _parse(file: _Bounded, names: Names) -> Elements:
    wanted = _tags(names)
    reached: list[str] = []

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXELS and not file.at_pixels:
            reached.append(_PIXELS[tag])
            if tag in wanted:
                file.go_on_to_pixels()
            return tag not in wanted
        if length > MAX_VALUE_BYTES and tag in wanted - _PIXELS.keys() and dictionary_VR(tag) != "SQ":
            raise unreadable(f"{describe(tag)} claims {length} bytes, at most {MAX_VALUE_BYTES} expected")
        return file.at_pixels

    try:
        dataset = read_partial(cast(BinaryIO, file), stop, specific_tags=list(wanted))
    except OSError:
        # Within an item of a sequence, pydicom replaces an exception of the file by one of its own.
        if file.refusal is None:
            raise
        raise file.refusal from None
    return Elements(dataset, reached[0] if reached else None, file.digest())


@functools.cache
def _tags(names: Names) -> frozenset[int]:
    return frozenset(map(Tag, names))


def inflate(file: BinaryIO, start: int, limit: int, remedy: str) -> BinaryIO:
    """The same file with its elements inflated (PS3.5 A.5).

    Args:
        file: a deflated DICOM file.
        start: where its deflated elements start.
        limit: how many bytes they may inflate to.
        remedy: what to do if they are more.

    Raises:
        InputError: ``unsupported_image``, there are more; ``unreadable_image``, they are cut short.
    """
    file.seek(0)
    uid = DeflatedExplicitVRLittleEndian.encode()
    head = file.read(start).replace(uid, ExplicitVRLittleEndian.encode().ljust(len(uid), b"\0"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), limit + 1)
    if len(content) > limit:
        raise unsupported(f"it inflates to over {limit} bytes", remedy)
    if not inflater.eof:
        raise unreadable("its deflated elements are cut short")
    return io.BytesIO(head + content)


class DeflatedError(Exception):
    """pydicom asks for all the rest of a file, which it does only to inflate it.

    An exception, because pydicom reads the transfer syntax and inflates in one call. A look at the syntax beforehand
    would take a private function of pydicom, and would parse the File Meta Information of every file twice.
    """

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


class _Bounded:
    """A file that limits how many bytes are read: those of a header, and from the pixels on also those of the pixels.

    Args:
        file: the file.
        max_pixel_bytes: None for no limit.

    Attributes:
        at_pixels: whether the pixels are being read.
        refusal: the error that a read beyond the limit has raised.
    """

    def __init__(self, file: BinaryIO, max_pixel_bytes: int | None) -> None:
        self.at_pixels = False
        self.refusal: InputError | None = None
        self.seek = file.seek
        self.tell = file.tell
        self._read = file.read
        self.read = file.read if max_pixel_bytes is None else self._read_some
        self._max_pixel_bytes = max_pixel_bytes or 0
        self._left = MAX_HEADER_BYTES
        self._sha256 = hashlib.sha256()
        self.digest = self._sha256.digest

    def go_on_to_pixels(self) -> None:
        self.at_pixels = True
        self._left += self._max_pixel_bytes

    def _read_some(self, size: int = -1) -> bytes:
        if size < 0:
            raise DeflatedError(self.tell())
        # One byte over the limit shows that there are more, and a length of 4 GB is never allocated.
        content = self._read(min(size, self._left + 1))
        self._left -= len(content)
        self._sha256.update(content)
        if self._left >= 0:
            return content
        if self.at_pixels:
            detail = f"its pixels take over {self._max_pixel_bytes} bytes"
            self.refusal = unsupported(detail, RAISE_THE_LIMIT)
        else:
            detail = f"its header takes over {MAX_HEADER_BYTES} bytes to parse"
            self.refusal = unsupported(detail, "remove sequences and long texts from it")
        raise self.refusal
