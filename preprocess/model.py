"""The records that the stages pass to each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from preprocess.geometry import Polygon
from preprocess.geometry.grid import Grid

ContourKind = Literal["i", "o"]
"""Inner (endocardial) or outer (epicardial)."""

KINDS: tuple[ContourKind, ...] = ("i", "o")

Contours = Literal["i", "o", "io"]
"""What is written: masks of one kind of contour, or label maps of both. Each letter is a ContourKind."""

Origin = Literal["corner", "center"]
"""Which point of the top-left pixel is (0, 0): its outer corner, so that pixel (r, c) is the square
[c, c+1] × [r, r+1], or its center."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One patient's examination: its images, and the contours drawn on them.

    A layout numbers the images, and gives each contour the number of its image.

    Attributes:
        study_id: its id in the records.
        contour_id: the id of its contours; in some data sets it differs.
        images: path of each image within the data directory, by number.
        contours: for each kind, the path of each contour, by the number of its image. The path of a contour in an RT
            Structure Set ends with a part that names it there (:mod:`preprocess.inputs.structure_sets`).
        patient_ids: the values of Patient ID that confirm an image, where numbers come from file names and have to be
            the Instance Numbers; None where the headers themselves say which image a contour belongs to.
    """

    study_id: str
    contour_id: str
    images: Mapping[int, str]
    contours: Mapping[ContourKind, Mapping[int, str]]
    patient_ids: frozenset[str] | None


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Everything that is taken from a DICOM header: an allow-list.

    Attributes:
        patient_id: compared with the folder's name, and never written; None when absent.
        instance_number: None when absent.
        shape: rows, columns.
        value_range: lowest and highest modality value that the header allows; None unless all are integers.
        pixel_spacing_mm: between rows and between columns; NaN when absent.
        orientation: direction cosines of a row and of a column; None when absent.
        position_mm: of the first pixel's center, in patient coordinates; None when absent.
        trigger_time_ms: since the R wave; NaN when absent.
        monochrome1: low values are displayed bright, not dark.
        sop_instance_uid: matches an image with contours, and is never written; None when absent.
        slice_thickness_mm: NaN when absent.
    """

    patient_id: str | None
    instance_number: int | None
    shape: tuple[int, int]
    value_range: tuple[int, int] | None
    pixel_spacing_mm: tuple[float, float]
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    trigger_time_ms: float
    monochrome1: bool = False
    sop_instance_uid: str | None = None
    slice_thickness_mm: float = math.nan

    @property
    def normal(self) -> tuple[float, float, float] | None:
        """The cross product of the directions of a row and of a column (PS3.3 C.7.6.2.1.1); None when absent."""
        if self.orientation is None:
            return None
        # Written out, because np.cross takes longer than reading the rest of a header.
        (a, b, c), (d, e, f) = self.orientation[:3], self.orientation[3:]
        return b * f - c * e, c * d - a * f, a * e - b * d

    def location_along_mm(self, normal: tuple[float, float, float] | None) -> float:
        """The position along a normal, NaN when unknown. The element Slice Location is not reliable enough."""
        if normal is None or self.position_mm is None:
            return math.nan
        return sum(cosine * position for cosine, position in zip(normal, self.position_mm, strict=True))

    @property
    def location_mm(self) -> float:
        """The position along the image's own normal."""
        return self.location_along_mm(self.normal)


class Fingerprint(NamedTuple):
    """Identifies an image as it was when it was examined: two SHA-256 digests.

    Attributes:
        pixels: of the pixels as stored, not decoded; copies of an image share it.
        file: of everything that was parsed to read them, including the header; it changes when the file is replaced.
    """

    pixels: bytes
    file: bytes


Key = tuple[str, int]
"""Study id and instance number: they identify an image, and at most one contour of each kind."""


class Place(NamedTuple):
    """Where an image lies in its study; -1 and NaN when the headers do not say.

    Attributes:
        stack_index: the stack of parallel slices.
        slice_index: counted through all stacks.
        phase_index: within the slice.
        location_mm: position along the stack's normal.
    """

    stack_index: int
    slice_index: int
    phase_index: int
    location_mm: float


NOWHERE = Place(-1, -1, -1, math.nan)
"""The place of an image whose header does not say where the image lies."""


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """One image and the contour drawn on it, by name.

    Attributes:
        kind: whether the contour is inner or outer.
        instance_number: the number in both files' names.
        slice_index: 0 at the end of the stack that has the lower instance number, -1 when unknown.
        phase_index: 0 at the start of the cardiac cycle, -1 when unknown.
        fingerprint: digests of the image.
        grid: the pixel grid of the image in the records.
    """

    study_id: str
    contour_id: str
    kind: ContourKind
    instance_number: int
    image_path: str
    contour_path: str
    slice_index: int
    phase_index: int
    fingerprint: Fingerprint
    grid: Grid

    @property
    def key(self) -> Key:
        """Study id and instance number."""
        return self.study_id, self.instance_number


@dataclasses.dataclass(frozen=True, slots=True)
class Pair(Match):
    """One image and the contour drawn on it, as a worker reads them.

    Attributes:
        header: of the image.
        polygon: the contour, float64 ``(N, 2)``, columns x and y in pixels.
    """

    header: ImageHeader
    polygon: Polygon


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedPair(Match):
    """One image and the contour drawn on it, or both of its contours, as the plan keeps them: in less than a kilobyte.

    Workers read the header and the points again when they need them.

    Attributes:
        pixel_spacing_mm: between rows and between columns; NaN when unknown.
        normal: of the image; None when unknown.
        value_range: lowest and highest modality value that the header allows; None unless all are integers.
        monochrome1: low values are displayed bright, not dark.
        digest: SHA-256 of the contour's points.
        points: how many there are.
        area_px: inside the contour, in square pixels.
        shape: radius, center x and y, and elongation of the contour in pixels.
        clockwise: the points go around clockwise on the screen.
        outside: share of the i-contour's area outside the o-contour; None unless the image has both.
        wall: area in mm² and mean thickness in mm of the myocardium; None unless the image has both.
        outer: the same image with its o-contour, where a label map is drawn from both; the pair is that of the
            i-contour then.
    """

    pixel_spacing_mm: tuple[float, float]
    normal: tuple[float, float, float] | None
    value_range: tuple[int, int] | None
    monochrome1: bool
    digest: bytes
    points: int
    area_px: float
    shape: tuple[float, float, float, float, float]
    clockwise: bool
    outside: float | None = None
    wall: tuple[float, float] | None = None
    outer: PlannedPair | None = None

    @property
    def contours(self) -> tuple[PlannedPair, ...]:
        """The image with each of the contours that are drawn, from the inside out."""
        return (self,) if self.outer is None else (self, self.outer)

    @property
    def paths(self) -> frozenset[str]:
        """The files that the pair is made of."""
        return frozenset([self.image_path, *(contour.contour_path for contour in self.contours)])
