"""A DICOM file whose content is in its sequences → their items, with bounds on what is read and on what it becomes.

A header has a bound on its bytes alone (:mod:`preprocess.dicom.part10`). That is not enough here, because such a file
may have megabytes: pydicom makes an object of more than a thousand bytes of an item that takes eight in the file.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar, cast

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_partial, read_sequence
from pydicom.tag import Tag

from preprocess.dicom.elements import describe, foreign_code, unreadable, unsupported
from preprocess.dicom.part10 import MAX_VALUE_BYTES, DeflatedError, inflate
from preprocess.findings import InputError

MAX_BYTES = 1 << 27
"""Bytes that are parsed of one file, those of a sequence once for each level at which it is nested."""

MAX_ITEMS = 100_000
"""Items of one file, of all sequences."""

_MAX_READS = 2_000_000
"""Reads of one file. An element takes one to three."""

_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""How an item starts (PS3.5 7.5), in both byte orders."""

_DIVIDE = "divide it into several files"

_Value = TypeVar("_Value")

_tag = functools.cache(Tag)


class Sequences:
    """The elements of one file, and the items of their sequences, read when they are needed.

    Attributes:
        dataset: the elements outside of all sequences.
    """

    dataset: pydicom.Dataset

    def __init__(self, file: BinaryIO, keywords: Sequence[str]) -> None:
        """Reads elements of a DICOM file (PS3.10).

        Args:
            file: the file.
            keywords: of the elements.

        Raises:
            InputError: ``unreadable_image``, or ``unsupported_image`` where it is over a limit.
        """
        self._limits = _Limits()
        tags = [_tag(keyword) for keyword in keywords]
        with self._parsing("it cannot be read as a DICOM file"):
            try:
                self.dataset = read_partial(cast(BinaryIO, _Bounded(file, self._limits)), specific_tags=list(tags))
            except DeflatedError as deflated:
                inflated = inflate(file, deflated.start, MAX_BYTES, _DIVIDE)
                bounded = cast(BinaryIO, _Bounded(inflated, self._limits))
                self.dataset = read_partial(bounded, specific_tags=list(tags))

    def items(self, dataset: pydicom.Dataset, keyword: str) -> Sequence[pydicom.Dataset]:
        """The items of a sequence; none when it is absent.

        Raises:
            InputError: as the constructor.
        """
        if _tag(keyword) not in dataset:
            return ()
        with self._parsing(f"{describe(keyword)} cannot be read"):
            element: Any = dataset.get_item(_tag(keyword))
            if not isinstance(element, RawDataElement):
                # Of undefined length, or empty.
                return element.value if isinstance(element.value, pydicom.Sequence) else ()
            content = element.value or b""
            return read_sequence(
                cast(BinaryIO, _Bounded(io.BytesIO(content), self._limits)),
                element.is_implicit_VR,
                element.is_little_endian,
                len(content),
                dataset.original_character_set,
            )

    def value(self, dataset: pydicom.Dataset, keyword: str, convert: Callable[[Any], _Value]) -> _Value | None:
        """The value of a short element; None when it is absent or empty.

        Raises:
            InputError: ``unreadable_image``, it is too long or cannot be converted.
        """
        if _tag(keyword) not in dataset:
            return None
        if len(self.content(dataset, keyword)) > MAX_VALUE_BYTES:
            raise unreadable(f"{describe(keyword)} has over {MAX_VALUE_BYTES} bytes")
        with self._parsing(f"{describe(keyword)} cannot be read"):
            value = dataset[_tag(keyword)].value
            if isinstance(value, pydicom.Sequence):
                raise unreadable(f"{describe(keyword)} is a sequence")
            return None if value is None or value == "" else convert(value)

    def content(self, dataset: pydicom.Dataset, keyword: str) -> bytes:
        """The bytes of an element that is not a sequence, as they are in the file; none when it is absent."""
        with self._parsing(f"{describe(keyword)} cannot be read"):
            element: Any = dataset.get_item(_tag(keyword)) if _tag(keyword) in dataset else None
            return bytes(element.value) if isinstance(element, RawDataElement) and element.value else b""

    @contextlib.contextmanager
    def _parsing(self, detail: str) -> Iterator[None]:
        """As ``foreign_code``; an error of a limit is raised even where pydicom has replaced it by one of its own."""
        try:
            with foreign_code(detail):
                yield
        except InputError as error:
            raise (self._limits.exceeded or error) from error
        if self._limits.exceeded:
            raise self._limits.exceeded


class _Limits:
    """What may still be read of one file, at all levels together.

    Attributes:
        exceeded: the error of the limit that was exceeded.
    """

    def __init__(self) -> None:
        self._left = {"bytes": MAX_BYTES, "items": MAX_ITEMS, "reads": _MAX_READS}
        self.exceeded: InputError | None = None

    @property
    def bytes_left(self) -> int:
        return self._left["bytes"]

    def spend(self, what: str, count: int = 1) -> None:
        self._left[what] -= count
        if self._left[what] < 0:
            most = {"bytes": MAX_BYTES, "items": MAX_ITEMS, "reads": _MAX_READS}[what]
            self.stop(unsupported(f"it takes over {most} {what} to parse", _DIVIDE))

    def stop(self, error: InputError) -> None:
        """Raises an error, and keeps it: pydicom turns every exception in a sequence into one of its own."""
        self.exceeded = self.exceeded or error
        raise error


class _Bounded:
    """A file, or a sequence in it, that limits what is read of it."""

    def __init__(self, file: BinaryIO, limits: _Limits) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._read = file.read
        self._limits = limits

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise DeflatedError(self.tell())
        limits = self._limits
        # One byte over the limit shows that there are more, and a length of 4 GB is never allocated.
        content = self._read(min(size, limits.bytes_left + 1))
        limits.spend("reads")
        limits.spend("bytes", len(content))
        if size == 8 and content[:4] in _ITEMS:
            limits.spend("items")
        # pydicom takes the end of the file for the end of the element. Where it looks ahead, it reads fewer bytes; and
        # it looks for another element, whose tag and length are 8 bytes, until there is none.
        if len(content) < size and (size > 8 or (size == 8 and content)):
            limits.stop(unreadable("it is cut short, or the length of an element is wrong"))
        return content
