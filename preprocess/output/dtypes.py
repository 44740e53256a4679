"""Modality values → the dtype of the data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import schema
from preprocess.findings import InputError, Reason


def smallest_dtype(ranges: Iterable[tuple[int, int] | None]) -> tuple[np.dtype[Any], bool]:
    """The smallest dtype of ``schema.IMAGE_DTYPES`` for all values that the headers allow.

    Args:
        ranges: the lowest and the highest value of each image; None unless all its values are integers.

    Returns:
        The dtype, and whether it represents them all exactly; float32 rounds values that do not fit its 24 bits.
    """
    ranges = list(ranges)
    integers = [bounds for bounds in ranges if bounds is not None]
    low = min((bounds[0] for bounds in integers), default=0)
    high = max((bounds[1] for bounds in integers), default=0)
    if len(integers) == len(ranges):
        for name in schema.IMAGE_DTYPES:
            dtype = np.dtype(name)
            if dtype.kind != "f" and np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype, True
    return np.dtype(np.float32), len(integers) == len(ranges) and low >= -(1 << 24) and high <= 1 << 24


def to_dtype(values: npt.NDArray[np.generic], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """The values in a data set's dtype; integers never wrap, floats never become infinite.

    Raises:
        InputError: ``unreadable_image``, a value is ruled out by the header, or not finite in the dtype.
    """
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise InputError(Reason.UNREADABLE_IMAGE, f"values beyond {dtype}, which its header rules out")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        raise InputError(Reason.UNREADABLE_IMAGE, f"values that are not finite in {dtype}")
    return cast
