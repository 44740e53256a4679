"""Checks the arguments of public functions."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import RecordsError


def whole_number(name: str, value: Any, lowest: int) -> int:
    """A whole number as an int; NumPy's integers are whole numbers, too.

    Raises:
        TypeError: it is not a whole number.
        RecordsError: it is below ``lowest``.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} is {value!r}, a whole number expected")
    if number < lowest:
        raise RecordsError(f"{name} is {number}, at least {lowest} expected")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False; NumPy's booleans are booleans, too.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r}, True or False expected")
    return bool(value)


def state(value: Any) -> Mapping[str, Any]:
    """What ``state_dict`` returned.

    Raises:
        TypeError: it is not a mapping.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"the state is of type {type(value).__name__}, what state_dict() returned expected")
    return value


def share(name: str, value: Any) -> tuple[int, int] | None:
    """``(index, count)`` with ``0 <= index < count``, or None.

    Raises:
        TypeError: it is not a pair of whole numbers.
        RecordsError: the index is out of its range.
    """
    if value is None:
        return None
    expected = f"{name} is {value!r}, (index, count) with 0 <= index < count expected"
    try:
        index, count = map(operator.index, value)
    except (TypeError, ValueError):
        raise TypeError(expected) from None
    if not 0 <= index < count:
        raise RecordsError(expected)
    return index, count
