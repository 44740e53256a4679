"""Elements of a DICOM header, read so that nothing of their text gets out: not by an error, a warning or a log."""

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
from pydicom.tag import BaseTag, Tag

from preprocess.findings import InputError, Reason

LARGEST = 1e6
"""Millimeters, milliseconds and direction cosines beyond this measure nothing: a kilometer, a quarter of an hour."""

_Value = TypeVar("_Value")


def element(dataset: pydicom.Dataset, keyword: str | int, convert: Callable[[Any], _Value]) -> _Value | None:
    """One element's value, by keyword or tag; None when it is absent or empty.

    Raises:
        InputError: ``unreadable_image``, the element cannot be converted.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return None
    with foreign_code(f"{describe(keyword)} cannot be read"):
        value = dataset[tag].value
        return None if value is None or value == "" else convert(value)


def floats(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of one element, None when it is absent or empty.

    Raises:
        InputError: ``unreadable_image``, there are not ``count`` of them, or one goes beyond ``LARGEST``.
    """
    values = element(dataset, keyword, lambda value: tuple(float(number) for number in value))
    if values is not None and (len(values) != count or not all(map(math.isfinite, values))):
        raise InputError(Reason.UNREADABLE_IMAGE, f"{describe(keyword)} is not {count} finite numbers")
    if values is not None and any(abs(value) > LARGEST for value in values):
        raise InputError(Reason.UNREADABLE_IMAGE, f"{describe(keyword)} goes beyond ±{LARGEST:g}")
    return values


def unsigned_short(value: Any) -> int:
    """A 16-bit number (VR US, PS3.5 6.2): it can be quoted, for no text, date or identifier is.

    Raises:
        ValueError: it is none, whatever type the file gives it.
    """
    number = int(value)
    if not 0 <= number <= 0xFFFF:
        raise ValueError("not a 16-bit number")
    return number


@functools.cache
def describe(keyword: str | int) -> str:
    """An element's name and tag, for a message."""
    return f"{dictionary_description(_tag(keyword))} {_tag(keyword)}"


@functools.cache
def _tag(keyword: str | int) -> BaseTag:
    return Tag(keyword)


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
    """Makes whatever pydicom and its codecs raise on a bad file an error about that file.

    They raise nearly every built-in exception, so there is no shorter list; our own code stays outside this block.
    Their messages quote the header, so they are not passed on. MemoryError may be due to what the process did before.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(Reason.UNREADABLE_IMAGE, f"{detail} ({type(error).__name__})") from error
