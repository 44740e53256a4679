"""Reads elements of a DICOM header. None of their text appears in an error, a warning or a log."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from preprocess.findings import InputError, Reason, counted

LARGEST = 1e6
"""Limit of millimeters (a kilometer), milliseconds (a quarter of an hour) and direction cosines."""

_Value = TypeVar("_Value")

_tag = functools.cache(Tag)


# The images of a study have most elements in common, and pydicom takes longer to convert them than to parse a header.
_converted: dict[object, Any] = {}
_MOST_CONVERTED = 10_000


def read_element(dataset: pydicom.Dataset, keyword: str | int, convert: Callable[[Any], _Value]) -> _Value | None:
    """Reads one element, by keyword or tag; None when it is absent or empty.

    Args:
        dataset: the elements.
        keyword: or tag.
        convert: makes the result, which must be immutable, from what pydicom returns.

    Raises:
        InputError: ``unreadable_image``, the element cannot be converted.
    """
    tag = _tag(keyword)
    element: object = dataset.get_item(tag)
    if element is None:
        return None
    if not isinstance(element, RawDataElement):
        return _read_element(dataset, keyword, convert)
    # Everything that the conversion depends on; not where the element lies.
    encoding = element.is_implicit_VR, element.is_little_endian, str(dataset.original_character_set)
    key = tag, element.VR, element.value, encoding, convert
    if key not in _converted:
        if len(_converted) >= _MOST_CONVERTED:
            _converted.clear()
        _converted[key] = _read_element(dataset, keyword, convert)
    known: _Value | None = _converted[key]
    return known


def _read_element(dataset: pydicom.Dataset, keyword: str | int, convert: Callable[[Any], _Value]) -> _Value | None:
    with foreign_code(f"{describe(keyword)} cannot be read"):
        value = dataset[_tag(keyword)].value
        return None if value is None or value == "" else convert(value)


def stripped(value: Any) -> str:
    """Converts to text without white space around it."""
    return str(value).strip()


def read_floats(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Reads the finite numbers of one element; None when it is absent or empty.

    Raises:
        InputError: ``unreadable_image``, there are not ``count`` of them, or one goes beyond ``LARGEST``.
    """
    values = read_element(dataset, keyword, _floats)
    if values is not None and (len(values) != count or not all(map(math.isfinite, values))):
        raise unreadable(f"{describe(keyword)} is not {counted(count, 'finite number')}")
    if values is not None and any(abs(value) > LARGEST for value in values):
        raise unreadable(f"{describe(keyword)} goes beyond ±{LARGEST:g}")
    return values


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, MultiValue) else (float(value),)


def unsigned_short(value: Any) -> int:
    """Converts to a 16-bit number (VR US, PS3.5 6.2). A message may quote it: it is not a text, date or identifier.

    Raises:
        ValueError: the value is not one; the file may give it any type.
    """
    number = int(value)
    if not 0 <= number <= 0xFFFF:
        raise ValueError("not a 16-bit number")
    return number


def integer_string(value: Any) -> int:
    """Converts to a number of VR IS (PS3.5 6.2), which has 32 bits; a record holds one of 64.

    Raises:
        ValueError: the value is not one.
    """
    number = int(value)
    if not -(1 << 31) <= number < 1 << 31:
        raise ValueError("not a 32-bit number")
    return number


def unreadable(detail: str, remedy: str = "") -> InputError:
    """An error with reason ``unreadable_image``."""
    return InputError(Reason.UNREADABLE_IMAGE, detail, remedy)


def unsupported(detail: str, remedy: str = "") -> InputError:
    """An error with reason ``unsupported_image``."""
    return InputError(Reason.UNSUPPORTED_IMAGE, detail, remedy)


@functools.cache
def describe(keyword: str | int) -> str:
    """An element's name and tag, for a message."""
    return f"{dictionary_description(_tag(keyword))} {_tag(keyword)}"


_is_silent = contextvars.ContextVar("_is_silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps pydicom from warning and logging: both quote the header, and neither names the file.

    It takes 40 µs, and next to nothing within another one: one around many images is faster than one for each.
    """
    if _is_silent.get():
        yield
        return
    token = _is_silent.set(True)
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        _is_silent.reset(token)


@contextlib.contextmanager
def foreign_code(detail: str) -> Iterator[None]:
    """Turns any exception that pydicom or a codec raises on a bad file into an InputError.

    They raise nearly every built-in exception, so there is no shorter list; our own code stays outside this block.
    Their messages quote the header, so they are not passed on. MemoryError passes: the file may not be its cause.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(f"{detail} ({type(error).__name__})") from error
