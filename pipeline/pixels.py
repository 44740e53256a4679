"""Converts stored images to those that the caller gets."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline import arguments
from pipeline.errors import RecordsError


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The conversion of stored images.

    Args:
        image_dtype: float32, by name or as a dtype, or None for the stored dtype.
        standardize: zero mean and unit variance per image.

    Raises:
        TypeError: ``standardize`` is not a boolean.
        RecordsError: another dtype, or ``standardize`` with the stored dtype.
    """

    image_dtype: npt.DTypeLike | None = "float32"
    standardize: bool = False

    def __post_init__(self) -> None:
        if self.image_dtype is not None and not _is_float32(self.image_dtype):
            raise RecordsError(f'image_dtype is {self.image_dtype!r}, "float32" or None expected')
        if arguments.flag("standardize", self.standardize) and self.image_dtype is None:
            raise RecordsError('standardize gives float32 images; leave image_dtype at "float32"')

    def read_dtype(self, stored: npt.DTypeLike) -> np.dtype[np.generic]:
        """The dtype of the images that :meth:`apply` takes, if the records have ``stored``."""
        return np.dtype(stored if self.standardize or self.image_dtype is None else self.image_dtype)

    def apply(self, images: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Converts images ``(n, H, W, 1)``; returns the same array when there is nothing to do."""
        return standardized(images) if self.standardize else images


def _is_float32(dtype: npt.DTypeLike) -> bool:
    try:
        return np.dtype(dtype) == np.float32
    except TypeError:
        return False


def standardized(images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Each image with zero mean and unit variance: float32 ``(n, H, W, 1)`` from any real dtype.

    Sums are in float64: in float32, an image with a large offset has an error of 1e-3 and more.
    """
    values = images.astype(np.float64)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    deviation = values.std(axis=(1, 2, 3), keepdims=True)
    values /= np.maximum(deviation, 1 / np.sqrt(values[0].size))
    return values.astype(np.float32)
