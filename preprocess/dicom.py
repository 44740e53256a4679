"""File → image: modality values of single-frame grayscale DICOM, lossless, and the few header elements we take."""

from __future__ import annotations

import hashlib
import math
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID

from preprocess.codestream import check_codestream
from preprocess.elements import LARGEST, element, elements, foreign_code, silent, unsigned_short
from preprocess.errors import InputError
from preprocess.part10 import PIXEL_KEYWORDS, read_elements
from preprocess.study import ImageHeader

_HEADER_KEYWORDS = (
    "SOPClassUID",
    "PatientID",
    "InstanceNumber",
    "TriggerTime",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
)

_BITS_ALLOCATED = (None, 1, 8, 16, 32, 64)
"""What images may have (PS3.5 8.1.1, PS3.3 C.7.6.24 and C.7.6.25); where it is absent, the decoder refuses."""

_LUT_BITS = range(1, 17)
"""Bits of a Modality LUT's values (PS3.3 C.11.1.1)."""

_ENHANCED = frozenset(
    UID(f"1.2.840.10008.5.1.4.1.1.{suffix}") for suffix in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130")
)
"""Enhanced CT, MR and PET classes: their rescale and position lie in functional groups (PS3.3 A.36, C.7.6.16)."""

# An image's modality values are computed in int64, with room to spare.
_MAX_INTEGER = 1 << 62


def read_header(file: BinaryIO, path: str, max_image_pixels: int) -> ImageHeader:
    """Reads the header of an image, never its pixels.

    Args:
        file: a DICOM file (PS3.10).
        path: what errors call it.
        max_image_pixels: rows × columns allowed.

    Raises:
        InputError: ``unreadable_image`` or ``unsupported_image``.
    """
    with silent():
        dataset = read_elements(file, path, _HEADER_KEYWORDS, max_image_pixels)
        return _header(dataset, path, max_image_pixels)


def read_pixels(file: BinaryIO, path: str, max_image_pixels: int) -> npt.NDArray[np.generic]:
    """Reads an image's modality values: stored values × Rescale Slope + Rescale Intercept (PS3.3 C.11.1.1.2).

    MONOCHROME1 is not inverted: that is a matter of display (PS3.3 C.7.6.3.1.2).

    Args:
        file: a DICOM file (PS3.10).
        path: what errors call it.
        max_image_pixels: rows × columns allowed; asked before anything is decoded.

    Returns:
        ``(H, W)``, of an integer dtype where slope and intercept are integers, else float64.

    Raises:
        InputError: ``unreadable_image`` or ``unsupported_image``.
    """
    with silent():
        dataset = read_elements(file, path, _HEADER_KEYWORDS + PIXEL_KEYWORDS, max_image_pixels)
        header = _header(dataset, path, max_image_pixels)
        keyword = _pixel_keyword(dataset, path)
        _check_codec(dataset, path)
        with foreign_code(path, "the pixels cannot be decoded"):
            syntax = UID(dataset.file_meta.TransferSyntaxUID)
            if syntax.is_encapsulated:
                frame = get_frame(dataset[keyword].value, 0, number_of_frames=1)
                check_codestream(frame, syntax, header.shape, path)
            # The first frame alone: NumberOfFrames is 1, whatever else is encapsulated.
            pixels = pixel_array(dataset, index=0)
            if "ModalityLUTSequence" in dataset:
                return apply_modality_lut(pixels, dataset)
        slope, intercept = _rescale(dataset, path)
        if (slope, intercept) == (1, 0):
            return pixels
        if header.value_range is not None:
            return pixels.astype(np.int64) * int(slope) + int(intercept)
        return pixels.astype(np.float64) * slope + intercept


def read_digest(file: BinaryIO, path: str, max_image_pixels: int) -> bytes:
    """SHA-256 of an image's pixels as the file holds them, not decoded.

    Args:
        file: a DICOM file (PS3.10).
        path: what errors call it.
        max_image_pixels: rows × columns allowed, at 8 bytes each.

    Raises:
        InputError: ``unreadable_image``, or ``unsupported_image`` where it has none.
    """
    with silent():
        dataset = read_elements(file, path, PIXEL_KEYWORDS, max_image_pixels)
        keyword = _pixel_keyword(dataset, path)
        with foreign_code(path, "the pixels cannot be read"):
            return hashlib.sha256(dataset[keyword].value).digest()


def _pixel_keyword(dataset: pydicom.Dataset, path: str) -> str:
    """Which element holds the pixels."""
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            return keyword
    raise _unsupported(path, "it has no pixels")


def _header(dataset: pydicom.Dataset, path: str, max_image_pixels: int) -> ImageHeader:
    if element(dataset, path, "SOPClassUID", str) in _ENHANCED:
        raise _unsupported(path, "it is of an enhanced, multi-frame class; convert it to single-frame images")
    rows, columns = (element(dataset, path, keyword, unsigned_short) for keyword in ("Rows", "Columns"))
    if not rows or not columns:
        raise _unsupported(path, "it has no pixels: Rows (0028,0010) or Columns (0028,0011) is missing")
    if rows * columns > max_image_pixels:
        raise _unsupported(
            path,
            f"Rows × Columns is {rows} × {columns}, at most {max_image_pixels} pixels expected; "
            "raise --max_image_pixels if this is right",
        )
    allocated = element(dataset, path, "BitsAllocated", unsigned_short)
    if allocated not in _BITS_ALLOCATED:
        raise _unsupported(path, f"Bits Allocated (0028,0100) is {allocated}, 1, 8, 16, 32 or 64 expected")
    samples = element(dataset, path, "SamplesPerPixel", int)
    grayscale = element(dataset, path, "PhotometricInterpretation", str) in ("MONOCHROME1", "MONOCHROME2")
    if samples not in (None, 1) or not grayscale:
        raise _unsupported(path, "it is not grayscale: MONOCHROME1 or MONOCHROME2, with 1 sample per pixel, expected")
    frames = element(dataset, path, "NumberOfFrames", unsigned_short)
    if frames not in (None, 1):
        raise _unsupported(path, f"NumberOfFrames (0028,0008) is {frames}, 1 expected; split it into images")
    spacing = elements(dataset, path, "PixelSpacing", 2) or (math.nan, math.nan)
    orientation = elements(dataset, path, "ImageOrientationPatient", 6)
    position = elements(dataset, path, "ImagePositionPatient", 3)
    trigger_time = element(dataset, path, "TriggerTime", float)
    if trigger_time is not None and not abs(trigger_time) <= LARGEST:
        raise InputError(path, f"Trigger Time (0018,1060) goes beyond ±{LARGEST:g}", "unreadable_image")
    if not all(distance > 0 for distance in spacing if not math.isnan(distance)):
        raise InputError(path, "Pixel Spacing (0028,0030) is not above 0", "unreadable_image")
    return ImageHeader(
        patient_id=element(dataset, path, "PatientID", lambda value: str(value).strip()) or None,
        instance_number=element(dataset, path, "InstanceNumber", int),
        shape=(rows, columns),
        value_range=_value_range(dataset, path),
        pixel_spacing_mm=(spacing[0], spacing[1]),
        orientation=orientation,
        location_mm=_location(orientation, position),
        trigger_time_ms=math.nan if trigger_time is None else trigger_time,
    )


def _location(orientation: tuple[float, ...] | None, position: tuple[float, ...] | None) -> float:
    """The position along the slice normal, in mm (PS3.3 C.7.6.2.1.1); Slice Location is not to be relied on."""
    if orientation is None or position is None:
        return math.nan
    # Written out: np.cross takes longer than all else here.
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    normal = b * f - c * e, c * d - a * f, a * e - b * d
    return sum(along * place for along, place in zip(normal, position, strict=True))


def _value_range(dataset: pydicom.Dataset, path: str) -> tuple[int, int] | None:
    """Lowest and highest modality value that the header allows; None where they are not all integers."""
    if "ModalityLUTSequence" in dataset:
        with foreign_code(path, "Modality LUT Sequence (0028,3000) cannot be read"):
            bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        if bits not in _LUT_BITS:
            raise _unsupported(path, f"LUT Descriptor (0028,3002) does not say {_LUT_BITS[0]} to {_LUT_BITS[-1]} bits")
        return 0, (1 << bits) - 1
    stored = _stored_range(dataset, path)
    slope, intercept = _rescale(dataset, path)
    if stored is None or not slope.is_integer() or not intercept.is_integer():
        return None
    ends = sorted(value * int(slope) + int(intercept) for value in stored)
    return (ends[0], ends[1]) if ends[0] >= -_MAX_INTEGER and ends[1] <= _MAX_INTEGER else None


def _stored_range(dataset: pydicom.Dataset, path: str) -> tuple[int, int] | None:
    """Lowest and highest stored value; None for float pixels, which have no Bits Stored (PS3.3 C.7.6.24)."""
    bits = element(dataset, path, "BitsStored", unsigned_short)
    if bits is None:
        return None
    if not 1 <= bits <= 32:
        raise _unsupported(path, f"Bits Stored (0028,0101) is {bits}, 1 to 32 expected")
    signed = element(dataset, path, "PixelRepresentation", int) == 1
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _rescale(dataset: pydicom.Dataset, path: str) -> tuple[float, float]:
    """Rescale Slope, 1 when absent, and Rescale Intercept, 0 when absent."""
    slope = element(dataset, path, "RescaleSlope", float)
    intercept = element(dataset, path, "RescaleIntercept", float)
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        raise InputError(path, "Rescale Slope and Intercept are not a finite scale", "unreadable_image")
    return slope, intercept


def _check_codec(dataset: pydicom.FileDataset, path: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    # An unknown UID's text comes from the header, so it is not repeated.
    name = syntax.name if UID(syntax).is_transfer_syntax else "unknown"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise _unsupported(path, f"no codec for its transfer syntax ({name})") from error
    if not decoder.is_available:
        raise _unsupported(
            path, f"the codec for {name} is not installed; pip install '.[preprocess,jpeg]' in the project's folder"
        )


def _unsupported(path: str, detail: str) -> InputError:
    return InputError(path, detail, "unsupported_image")
