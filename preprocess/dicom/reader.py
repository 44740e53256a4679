"""File → image: modality values of single-frame grayscale DICOM, lossless, and the few header elements we take."""

from __future__ import annotations

import contextlib
import hashlib
import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID

from preprocess.dicom.codestream import check_codestream
from preprocess.dicom.elements import (
    foreign_code,
    integer_string,
    read_element,
    read_floats,
    silent,
    stripped,
    unreadable,
    unsigned_short,
    unsupported,
)
from preprocess.dicom.part10 import PIXEL_KEYWORDS, RAISE_THE_LIMIT, Elements, read_elements
from preprocess.dicom.stored import OVERLAY_BIT_POSITIONS, from_cells, from_numbers, read_layout, read_overlays
from preprocess.findings import InputError, Reason
from preprocess.model import Fingerprint, ImageHeader

_HEADER_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
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
    "SliceThickness",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
)

_IMAGE_NAMES = _HEADER_KEYWORDS + OVERLAY_BIT_POSITIONS + PIXEL_KEYWORDS
"""All elements that decoding an image needs."""

_LUT_BITS = range(1, 17)
"""Bits of a Modality LUT's values (PS3.3 C.11.1.1)."""

_ENHANCED = frozenset(
    UID(f"1.2.840.10008.5.1.4.1.1.{suffix}") for suffix in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130")
)
"""Enhanced CT, MR and PET classes: their rescale and position lie in functional groups (PS3.3 A.36, C.7.6.16)."""

# An image's modality values are computed in int64, with room to spare.
_MAX_INTEGER = 1 << 62


@silent()
def read_header(file: BinaryIO, max_image_pixels: int) -> ImageHeader:
    """Reads the header of an image, never its pixels.

    Args:
        file: a DICOM file (PS3.10).
        max_image_pixels: rows × columns allowed.

    Raises:
        InputError: ``unreadable_image`` or ``unsupported_image``.
    """
    return _header(read_elements(file, _HEADER_KEYWORDS, max_image_pixels), max_image_pixels)


class SeriesHeader(NamedTuple):
    """What identifies a series. Both are compared, and never written.

    Attributes:
        description: Series Description; empty when absent.
        patient_id: Patient ID; None when absent.
    """

    description: str
    patient_id: str | None


@silent()
def read_series_header(file: BinaryIO, max_image_pixels: int) -> SeriesHeader:
    """Reads what identifies the series of an image; arguments and errors as :func:`read_header`."""
    dataset = read_elements(file, ("SeriesDescription", "PatientID"), max_image_pixels).dataset
    return SeriesHeader(
        read_element(dataset, "SeriesDescription", str) or "",
        read_element(dataset, "PatientID", stripped) or None,
    )


def read_pixels(file: BinaryIO, max_image_pixels: int) -> npt.NDArray[np.generic]:
    """Reads an image's modality values ``(H, W)``; arguments and errors as :func:`read_image`."""
    return read_image(file, max_image_pixels)[1]


@silent()
def read_image(
    file: BinaryIO, max_image_pixels: int, fingerprint: Fingerprint | None = None
) -> tuple[ImageHeader, npt.NDArray[np.generic]]:
    """Reads an image's modality values: stored values × Rescale Slope + Rescale Intercept (PS3.3 C.11.1.1.2).

    MONOCHROME1 is not inverted: that is a matter of display (PS3.3 C.7.6.3.1.2). ``checks`` reports a data set that
    mixes it with MONOCHROME2.

    Args:
        file: a DICOM file (PS3.10).
        max_image_pixels: rows × columns allowed; checked before anything is decoded.
        fingerprint: what ``read_fingerprint`` returned, if the image was read before.

    Returns:
        The header; and the values ``(H, W)``, of an integer dtype where slope and intercept are integers, else float64.

    Raises:
        InputError: ``unreadable_image``, ``unsupported_image``, or ``changed_image`` where the fingerprint differs.
    """
    elements = read_elements(file, _IMAGE_NAMES, max_image_pixels)
    if fingerprint is not None and elements.digest != fingerprint.file:
        raise InputError(Reason.CHANGED_IMAGE, "it changed while the job ran")
    header = _header(elements, max_image_pixels)
    pixels = _modality_values(elements, header)
    if pixels.shape != header.shape:
        raise unreadable("its pixels are not Rows × Columns")
    return header, pixels


def _modality_values(elements: Elements, header: ImageHeader) -> npt.NDArray[np.generic]:
    dataset = elements.dataset
    pixels = _stored_values(elements, header.shape)
    if "ModalityLUTSequence" in dataset:
        with foreign_code("Modality LUT Sequence (0028,3000) cannot be applied"):
            # In the pixels' own dtype, the difference to the first mapped value may wrap.
            return apply_modality_lut(pixels.astype(np.int64), dataset)
    slope, intercept = _rescale(dataset)
    if (slope, intercept) == (1, 0):
        return pixels
    if header.value_range is not None:
        return pixels.astype(np.int64) * int(slope) + int(intercept)
    return pixels.astype(np.float64) * slope + intercept


@silent()
def read_fingerprint(file: BinaryIO, max_image_pixels: int) -> tuple[ImageHeader, Fingerprint]:
    """Reads all of an image without decoding it.

    Args:
        file: a DICOM file (PS3.10).
        max_image_pixels: rows × columns allowed, at 8 bytes each.

    Raises:
        InputError: ``unreadable_image`` or ``unsupported_image``.
    """
    elements = read_elements(file, _IMAGE_NAMES, max_image_pixels)
    header = _header(elements, max_image_pixels)
    keyword = _pixel_keyword(elements)
    with foreign_code("the pixels cannot be read"):
        return header, Fingerprint(hashlib.sha256(elements.dataset[keyword].value).digest(), elements.digest)


def _pixel_keyword(elements: Elements) -> str:
    """The element that holds the pixels."""
    if elements.pixels is None:
        raise unsupported("it has no pixels")
    return elements.pixels


def _stored_values(elements: Elements, shape: tuple[int, int]) -> npt.NDArray[np.generic]:
    """An image's pixels before slope and intercept (PS3.5 8.1.1 and 8.2), float where their element is."""
    dataset, keyword = elements.dataset, _pixel_keyword(elements)
    _check_codec(dataset)
    syntax, floating, claim = UID(dataset.file_meta.TransferSyntaxUID), keyword != "PixelData", None
    if floating and syntax.is_encapsulated:
        raise unsupported("its float pixels are compressed", "decompress them")
    # Cells are decoded as plain bits, a codestream as it describes itself. With the header's description, pydicom would
    # mask and wrap values that contradict it.
    stated: dict[str, Any] = {} if floating else {"pixel_representation": 0}
    with foreign_code("the pixels cannot be decoded"):
        if syntax.is_encapsulated:
            claim = check_codestream(get_frame(dataset[keyword].value, 0, number_of_frames=1), syntax, shape)
        if claim is not None:
            stated = {
                "bits_allocated": claim.container,
                "bits_stored": claim.precision,
                "pixel_representation": int(claim.signed or 0),
            }
        # Only the first frame: NumberOfFrames is 1, even if more frames are encapsulated.
        pixels = pixel_array(dataset, index=0, correct_unused_bits=False, **stated)
    if floating:
        return pixels
    layout = read_layout(dataset)
    if claim is None:
        return from_cells(pixels, layout, read_overlays(dataset))
    if claim.signed is None:
        return from_cells(pixels, layout, width=claim.precision)
    return from_numbers(pixels, layout)


def _header(elements: Elements, max_image_pixels: int) -> ImageHeader:
    dataset = elements.dataset
    if read_element(dataset, "SOPClassUID", str) in _ENHANCED:
        raise unsupported("it is of an enhanced, multi-frame class", "convert it to single-frame images")
    rows, columns = (read_element(dataset, keyword, unsigned_short) for keyword in ("Rows", "Columns"))
    if not rows or not columns:
        raise unsupported("it has no pixels: Rows (0028,0010) or Columns (0028,0011) is missing")
    if rows * columns > max_image_pixels:
        raise unsupported(
            f"Rows × Columns is {rows} × {columns}, at most {max_image_pixels} pixels expected", RAISE_THE_LIMIT
        )
    samples = read_element(dataset, "SamplesPerPixel", int)
    photometric = read_element(dataset, "PhotometricInterpretation", str)
    if samples not in (None, 1) or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise unsupported("it is not grayscale: MONOCHROME1 or MONOCHROME2, with 1 sample per pixel, expected")
    frames = read_element(dataset, "NumberOfFrames", unsigned_short)
    if frames not in (None, 1):
        raise unsupported(f"NumberOfFrames (0028,0008) is {frames}, 1 expected", "split it into images")
    value_range = _value_range(elements)
    spacing = read_floats(dataset, "PixelSpacing", 2) or (math.nan, math.nan)
    orientation = read_floats(dataset, "ImageOrientationPatient", 6)
    position = read_floats(dataset, "ImagePositionPatient", 3)
    (trigger_time_ms,) = read_floats(dataset, "TriggerTime", 1) or (math.nan,)
    if not all(distance > 0 for distance in spacing if not math.isnan(distance)):
        raise unreadable("Pixel Spacing (0028,0030) is not above 0")
    return ImageHeader(
        patient_id=read_element(dataset, "PatientID", stripped) or None,
        instance_number=read_element(dataset, "InstanceNumber", integer_string),
        shape=(rows, columns),
        value_range=value_range,
        pixel_spacing_mm=(spacing[0], spacing[1]),
        orientation=orientation,
        position_mm=position,
        trigger_time_ms=trigger_time_ms,
        monochrome1=photometric == "MONOCHROME1",
        sop_instance_uid=read_element(dataset, "SOPInstanceUID", str),
        slice_thickness_mm=_slice_thickness_mm(dataset),
    )


def _slice_thickness_mm(dataset: pydicom.Dataset) -> float:
    """NaN also where the element is wrong: an image can be used without it."""
    with contextlib.suppress(InputError):
        (thickness,) = read_floats(dataset, "SliceThickness", 1) or (math.nan,)
        return thickness
    return math.nan


def _value_range(elements: Elements) -> tuple[int, int] | None:
    """Lowest and highest modality value that the header allows; None where they are not all integers."""
    dataset = elements.dataset
    # Float pixels may have Bits Stored, too, which then does not describe them (PS3.3 C.7.6.24).
    layout = read_layout(dataset) if elements.pixels in (None, "PixelData") else None
    if "ModalityLUTSequence" in dataset:
        if layout is None:
            raise unsupported("it has a Modality LUT Sequence (0028,3000), which float pixels cannot index")
        with foreign_code("Modality LUT Sequence (0028,3000) cannot be read"):
            bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        if bits not in _LUT_BITS:
            raise unsupported(f"LUT Descriptor (0028,3002) does not say {_LUT_BITS[0]} to {_LUT_BITS[-1]} bits")
        return 0, (1 << bits) - 1
    slope, intercept = _rescale(dataset)
    if layout is None or not slope.is_integer() or not intercept.is_integer():
        return None
    ends = sorted(value * int(slope) + int(intercept) for value in layout.limits)
    return (ends[0], ends[1]) if ends[0] >= -_MAX_INTEGER and ends[1] <= _MAX_INTEGER else None


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Rescale Slope, 1 when absent, and Rescale Intercept, 0 when absent."""
    slope = read_element(dataset, "RescaleSlope", float)
    intercept = read_element(dataset, "RescaleIntercept", float)
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        raise unreadable("Rescale Slope and Intercept are not a finite scale")
    return slope, intercept


def _check_codec(dataset: pydicom.FileDataset) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    # An unknown UID's text comes from the header, so it is not repeated.
    name = syntax.name if UID(syntax).is_transfer_syntax else "unknown"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise unsupported(f"no codec for its transfer syntax ({name})") from error
    if not decoder.is_available:
        raise unsupported(
            f"the codec for {name} is not installed", "pip install '.[preprocess,jpeg]' in the project's folder"
        )
