"""Pixel cells, or the numbers that a codec decodes → stored values, as Bits Stored and High Bit define them.

A value is never taken from bits that may mean something else: where the header and the pixels disagree, the image is
refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom

from preprocess.dicom.elements import describe, read_element, unreadable, unsigned_short, unsupported

_BITS_ALLOCATED = (1, 8, 16, 32, 64)
"""Values that the standard allows (PS3.5 8.1.1, PS3.3 C.7.6.24 and C.7.6.25)."""

_MAX_BITS_STORED = 32

OVERLAY_BIT_POSITIONS = tuple(0x60000102 + (group << 16) for group in range(0, 0x20, 2))
"""Tags of Overlay Bit Position, one for each group of overlays (PS3.3 C.9.2)."""


class Layout(NamedTuple):
    """Which bits of a pixel cell are the stored value (PS3.5 8.1.1).

    Attributes:
        allocated: bits of a cell; a codec may keep fewer, or more.
        stored: bits of the value.
        high: position of its highest bit in the cell.
        signed: two's complement.
    """

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest stored value."""
        return (-(1 << self.stored - 1), (1 << self.stored - 1) - 1) if self.signed else (0, (1 << self.stored) - 1)


def read_layout(dataset: pydicom.Dataset) -> Layout:
    """Reads the layout of integer pixels from a header.

    Raises:
        InputError: ``unsupported_image``, the layout is incomplete or contradicts itself.
    """
    allocated = _one_of(_BITS_ALLOCATED, "1, 8, 16, 32 or 64", dataset, "BitsAllocated")
    most = min(_MAX_BITS_STORED, allocated)
    stored = _one_of(range(1, most + 1), f"1 to {most}", dataset, "BitsStored")
    lowest = stored - 1
    high = _one_of(range(lowest, allocated), f"{lowest} to {allocated - 1}", dataset, "HighBit", default=lowest)
    representation = _one_of((0, 1), "0 or 1", dataset, "PixelRepresentation")
    return Layout(allocated=allocated, stored=stored, high=high, signed=representation == 1)


def _one_of(
    allowed: Container[int], expected: str, dataset: pydicom.Dataset, keyword: str, default: int | None = None
) -> int:
    """The value of an element, which must be allowed."""
    value = read_element(dataset, keyword, unsigned_short)
    value = default if value is None else value
    if value is None or value not in allowed:
        raise unsupported(f"{describe(keyword)} is {'missing' if value is None else value}, {expected} expected")
    return value


def read_overlays(dataset: pydicom.Dataset) -> tuple[int, ...]:
    """Reads which bits of a cell hold overlays; the standard has retired such overlays."""
    positions = (read_element(dataset, tag, unsigned_short) for tag in OVERLAY_BIT_POSITIONS)
    # An overlay with data of its own has position 0.
    return tuple(position for position in positions if position)


def from_cells(
    cells: npt.NDArray[Any], layout: Layout, overlays: Iterable[int] = (), width: int | None = None
) -> npt.NDArray[np.generic]:
    """Extracts stored values from pixel cells.

    Args:
        cells: unsigned integers.
        layout: which of their bits are the value.
        overlays: positions of bits that hold overlays.
        width: bits of a cell, where a codec keeps fewer than are allocated.

    Raises:
        InputError: ``unreadable_image``, the other bits are neither zeros, nor an extended sign, nor overlays. The
            standard says to ignore them, but mostly they are in use because the header states wrong bits.
    """
    cells = cells.astype(np.promote_types(cells.dtype, f"u{max(8, layout.allocated) // 8}"), copy=False)
    bits = 8 * cells.dtype.itemsize
    width = width or layout.allocated
    shift = layout.high + 1 - layout.stored
    # A shift to the top of the integer and back extends the sign.
    values = cells << (bits - 1 - layout.high)
    if layout.signed:
        values = values.view(f"i{cells.dtype.itemsize}")
    values = values >> (bits - layout.stored)

    used = ((1 << layout.stored) - 1) << shift
    cell = (1 << min(width, bits)) - 1
    known = cell & ~sum(1 << position for position in {*overlays} if position < bits and not used >> position & 1)
    extended = (values.view(cells.dtype) << shift) & cells.dtype.type(known)
    found = cells & cells.dtype.type(known)
    whole = np.array_equal(found, cells & cells.dtype.type(used)) or np.array_equal(found, extended)
    # If a cell ends below the value's sign bit, negative values cannot be recognized.
    signless = layout.signed and width <= layout.high and bool((cells >> (width - 1)).any())
    if not whole or signless:
        raise unreadable(
            f"bits other than those of Bits Stored (0028,0101), {layout.stored}, up to High Bit (0028,0102), "
            f"{layout.high}, are in use and are not an overlay",
            "correct the elements",
        )
    return values


def from_numbers(numbers: npt.NDArray[Any], layout: Layout) -> npt.NDArray[np.generic]:
    """Stored values from the numbers of a codestream, which have their own sign.

    Raises:
        InputError: ``unreadable_image``, they are beyond the values that the header states.
    """
    low, high = layout.limits
    if numbers.min() < low or numbers.max() > high:
        raise unreadable(
            "its compressed pixels go beyond the values of Bits Stored (0028,0101) and Pixel Representation "
            f"(0028,0103), {low} to {high}",
            "correct the elements, or compress it again",
        )
    return numbers
