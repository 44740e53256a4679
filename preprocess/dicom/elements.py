"""Reads elements of a DICOM header. None of their text appears in an error, a warning or a log."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from preprocess.findings import InputError, Reason, counted

LARGEST = 1e6
"""Limit of millimeters (a kilometer), milliseconds (a quarter of an hour) and direction cosines."""

_Value = TypeVar("_Value")

_tag = functools.cache(Tag)


def read_element(dataset: pydicom.Dataset, keyword: str | int, convert: Callable[[Any], _Value]) -> _Value | None:
    """Reads one element, by keyword or tag; None when it is absent or empty.

    Raises:
        InputError: ``unreadable_image``, the element cannot be converted.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return None
    with foreign_code(f"{describe(keyword)} cannot be read"):
        value = dataset[tag].value
        return None if value is None or value == "" else convert(value)


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


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps pydicom from warning and logging: both quote the header, and neither names the file."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
