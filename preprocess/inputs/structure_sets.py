"""A DICOM RT Structure Set (PS3.3 A.19) → polygons on the images that it refers to.

A contour names its images by SOP Instance UID, and its points are patient coordinates in mm.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pydicom

from preprocess.dicom.elements import silent, unreadable
from preprocess.dicom.sequences import Sequences
from preprocess.findings import InputError, Reason, counted
from preprocess.geometry import Polygon, regions
from preprocess.geometry.planes import Plane
from preprocess.inputs.contours import MAX_CROSSINGS, MAX_POINTS, check_outline, check_points, check_together
from preprocess.model import ImageHeader

HEAD_BYTES = 1024
"""Bytes at the start of a file that tell its kind."""

MAX_PARTS = 20
"""How many outlines a region on one image may have. One of the left ventricle has one."""

_SOP_CLASS = b"1.2.840.10008.5.1.4.1.1.481.3"

# Media Storage SOP Class UID (0002,0002), in Explicit VR Little Endian as all File Meta Information (PS3.10 7.1).
_MEDIA_STORAGE = b"\x02\x00\x02\x00UI"

_XOR = "CLOSEDPLANAR_XOR"
_REGIONS = ("CLOSED_PLANAR", _XOR)
"""Contour Geometric Types that describe a region (PS3.3 C.8.8.6.1)."""

# Of an image without Slice Thickness: no slice of the heart is thinner than a millimeter.
_DISTANCE_MM = 0.5

_PART = re.compile(r"(?P<file>.+)#roi(?P<roi>\d{1,9})-image\d{1,9}", re.ASCII | re.DOTALL)

_KEYWORDS = ("SOPClassUID", "StructureSetROISequence", "ROIContourSequence")


def is_dicom(head: bytes) -> bool:
    """Whether a file is DICOM (PS3.10), by its first bytes."""
    return head[128:132] == b"DICM"


def is_structure_set(head: bytes) -> bool:
    """Whether a file is an RT Structure Set, by its first ``HEAD_BYTES``."""
    at = head.find(_MEDIA_STORAGE, 132)
    if not is_dicom(head) or at < 0 or len(head) < at + 8:
        return False
    start = at + 8
    (length,) = struct.unpack_from("<H", head, at + 6)
    return head[start : start + length].rstrip(b"\0 ") == _SOP_CLASS


class ContourName(NamedTuple):
    """Names the contours of one ROI on one image.

    Attributes:
        file: path of the structure set.
        roi_number: ROI Number (3006,0022).
    """

    file: str
    roi_number: int

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """From the path of a contour; None if the path is that of a file of its own."""
        match = _PART.fullmatch(path)
        return cls(match["file"], int(match["roi"])) if match else None

    def path(self, number: int) -> str:
        """The path of the contour on the image with a number."""
        return f"{self.file}#roi{self.roi_number}-image{number}"


class Roi(NamedTuple):
    """What a structure set says about one ROI, without its points.

    Attributes:
        number: ROI Number (3006,0022).
        name: ROI Name (3006,0026). It may name a patient, so it is never written.
        images: the SOP Instance UID of each image with an outline of a region.
        contours: how many contours it has.
        unreferenced: how many of them do not say on which image they are drawn.
        lines: how many of them are points or open lines, which describe no region.
    """

    number: int
    name: str
    images: tuple[str, ...]
    contours: int
    unreferenced: int
    lines: int


class _Outline(NamedTuple):
    """Attributes: whether it is combined with others by exclusive or, and its Contour Data (3006,0050)."""

    xor: bool
    data: bytes


@dataclasses.dataclass(frozen=True)
class StructureSet:
    """The contours of a structure set, by ROI and image.

    Attributes:
        rois: its ROIs, in the order of the file.
    """

    rois: tuple[Roi, ...]
    _outlines: Mapping[tuple[int, str], Sequence[_Outline]]

    @classmethod
    @silent()
    def read(cls, file: BinaryIO) -> Self:
        """Reads a structure set.

        Raises:
            InputError: ``unreadable_contour`` or ``oversized_contour``.
        """
        with _about_contours():
            sequences = Sequences(file, _KEYWORDS)
            if sequences.value(sequences.dataset, "SOPClassUID", str) != _SOP_CLASS.decode():
                raise unreadable("it is not an RT Structure Set")
            names: dict[int, str] = {}
            for item in sequences.items(sequences.dataset, "StructureSetROISequence"):
                number = _roi_number(sequences, item, "ROINumber")
                if number in names:
                    raise unreadable(f"two of its ROIs have the number {number}")
                names[number] = sequences.value(item, "ROIName", str) or ""
            if names and "ROIContourSequence" not in sequences.dataset:
                raise unreadable("it has no ROI Contour Sequence (3006,0039); the file may be cut short")
            contours: dict[int, list[pydicom.Dataset]] = {number: [] for number in names}
            for item in sequences.items(sequences.dataset, "ROIContourSequence"):
                number = _roi_number(sequences, item, "ReferencedROINumber")
                if number not in names:
                    raise unreadable(f"it has contours of ROI {number}, and no such ROI")
                contours[number] += sequences.items(item, "ContourSequence")
            outlines: dict[tuple[int, str], list[_Outline]] = {}
            rois = [_roi(sequences, number, names[number], contours[number], outlines) for number in names]
            return cls(tuple(rois), outlines)

    def polygon(self, roi_number: int, header: ImageHeader) -> Polygon:
        """The region of an ROI on an image: float64 ``(N, 2)``, columns x and y in pixels from the outer corner.

        A region of several parts, or with holes, is one outline (:mod:`preprocess.geometry.regions`).

        Raises:
            InputError: it has no such contour, or the contour cannot be used.
        """
        outlines = self._outlines.get((roi_number, header.sop_instance_uid or ""))
        if not outlines:
            raise InputError(Reason.UNREADABLE_CONTOUR, "it is no longer in the file", "run the job again")
        _check_parts(len(outlines))
        plane = _plane(header)
        drawn = [(outline.xor, _project(_points(outline.data), plane, header)) for outline in outlines]
        if len(drawn) == 1:
            return drawn[0][1]
        check_together(*(polygon for _, polygon in drawn))
        parts = regions.combined(
            [polygon for xor, polygon in drawn if not xor], [polygon for xor, polygon in drawn if xor]
        )
        if not parts:
            raise InputError(Reason.DEGENERATE_CONTOUR, f"its {len(drawn)} outlines leave no region")
        _check_parts(len(parts))
        polygon = regions.bridged(parts)
        check_points(polygon)
        # Bridges meet the outlines that they connect, and each other.
        check_outline(polygon, MAX_PARTS * MAX_CROSSINGS)
        return polygon


def _check_parts(count: int) -> None:
    if count > MAX_PARTS:
        detail = f"{count} outlines on one image, at most {MAX_PARTS} expected"
        raise InputError(Reason.OVERSIZED_CONTOUR, detail, "draw the contour again, as one outline")


def _roi(
    sequences: Sequences,
    number: int,
    name: str,
    contours: Sequence[pydicom.Dataset],
    outlines: dict[tuple[int, str], list[_Outline]],
) -> Roi:
    """Reads the contours of one ROI, and adds those that describe regions to the outlines."""
    images: dict[str, None] = {}
    problems = collections.Counter[str]()
    for contour in contours:
        kind = (sequences.value(contour, "ContourGeometricType", str) or "").strip().upper()
        if kind not in _REGIONS:
            problems["lines"] += 1
            continue
        references = sequences.items(contour, "ContourImageSequence")
        uids = [sequences.value(item, "ReferencedSOPInstanceUID", str) for item in references]
        drawn_on = dict.fromkeys(uid for uid in uids if uid)
        problems["unreferenced"] += not drawn_on
        outline = _Outline(kind == _XOR, sequences.content(contour, "ContourData"))
        for uid in drawn_on:
            outlines.setdefault((number, uid), []).append(outline)
        images |= drawn_on
    return Roi(number, name, tuple(images), len(contours), problems["unreferenced"], problems["lines"])


def _roi_number(sequences: Sequences, item: pydicom.Dataset, keyword: str) -> int:
    number = sequences.value(item, keyword, int)
    if number is None or not 0 <= number < 10**9:
        raise unreadable("an ROI has no number, or one below 0 or above 999999999")
    return number


def _plane(header: ImageHeader) -> Plane:
    """The plane of an image."""
    if header.position_mm is None or header.orientation is None:
        detail = "its image has no Image Position (0020,0032) or no Image Orientation (0020,0037) (Patient)"
    else:
        try:
            return Plane(header.position_mm, header.orientation, header.pixel_spacing_mm)
        except ValueError:
            detail = (
                "Image Orientation (Patient) (0020,0037) of its image is not two perpendicular unit vectors, or Pixel "
                "Spacing (0028,0030) is missing"
            )
    raise InputError(Reason.NO_IMAGE, f"{detail}, so the contour cannot be placed on it", "export the image again")


def _points(data: bytes) -> npt.NDArray[np.float64]:
    """Patient coordinates from Contour Data: float64 ``(N, 3)``, in mm."""
    count = data.count(b"\\") + 1
    if count > 3 * MAX_POINTS:
        raise InputError(Reason.OVERSIZED_CONTOUR, f"{count // 3} points, at most {MAX_POINTS} expected")
    if count % 3:
        detail = f"its Contour Data (3006,0050) has {counted(count, 'number')}, three for each point expected"
        raise InputError(Reason.UNREADABLE_CONTOUR, detail)
    try:
        # Python reads 1_0 as 10.
        if b"_" in data:
            raise ValueError
        return np.array([float(number) for number in data.rstrip(b"\0").split(b"\\")], np.float64).reshape(-1, 3)
    except ValueError:
        detail = "its Contour Data (3006,0050) is not numbers"
        raise InputError(Reason.UNREADABLE_CONTOUR, detail) from None


def _project(points: npt.NDArray[np.float64], plane: Plane, header: ImageHeader) -> Polygon:
    """One outline on its image, checked as any contour is."""
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise InputError(Reason.NONFINITE_CONTOUR, f"point {bad + 1} is not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        polygon, distances = plane.project(points)
    # Not finite where coordinates are near the largest number; then it is also beyond the limit.
    farthest = float(np.nan_to_num(np.abs(distances), nan=np.inf).max())
    thickness = header.slice_thickness_mm
    limit = thickness / 2 if thickness > 0 else _DISTANCE_MM
    if farthest > limit:
        detail = f"it lies up to {farthest:.3g} mm off the plane of its image, at most {limit:g} mm expected"
        raise InputError(Reason.OFF_PLANE_CONTOUR, detail)
    check_points(polygon)
    check_outline(polygon)
    return polygon


_CONTOUR_REASONS = {
    Reason.UNREADABLE_IMAGE: Reason.UNREADABLE_CONTOUR,
    Reason.UNSUPPORTED_IMAGE: Reason.OVERSIZED_CONTOUR,
}


@contextlib.contextmanager
def _about_contours() -> Iterator[None]:
    """Gives an error of the room ``dicom`` the reason that it has for contours."""
    try:
        yield
    except InputError as error:
        reason = _CONTOUR_REASONS[error.reason]
        remedy = "" if error.remedy == error.reason.remedy else error.remedy
        raise InputError(reason, error.detail, remedy) from error
