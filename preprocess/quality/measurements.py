"""What is measured for every pair and every study: the tables beside the audit.

Lengths are in pixels or mm and volumes in ml, as the columns say.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from preprocess.geometry import Polygon, polygons
from preprocess.model import NOWHERE, ImageHeader, Match, Pair, Place, PlannedPair, Study
from preprocess.quality import contrast, myocardium
from preprocess.quality.myocardium import Wall
from preprocess.quality.registration import Registration, bands
from preprocess.quality.volumes import Volumes


@dataclasses.dataclass(frozen=True)
class PairRow:
    """A row of ``pairs.csv``. None where it was not measured, because the pair was left out.

    On a common grid ``mask_area_px`` is of the mask that is written, in its pixels, and ``area_difference_percent``
    compares it with the polygon as it lies there. Other columns describe image and contour as the files have them.
    Where a label map is written, the contour is the inner one and the mask is the blood pool; ``implausibility`` is
    that of the worse of both contours.
    """

    study_id: str
    contour_id: str
    contour_path: str
    instance_number: int
    slice_index: int
    phase_index: int
    written: int
    points: int
    polygon_area_px: float
    mask_area_px: int | None
    area_difference_percent: float | None
    mean_inside: float | None
    mean_ring: float | None
    inner_inside_outer_percent: float | None
    implausibility: float | None
    myocardium_area_mm2: float | None
    wall_thickness_mm: float | None


@dataclasses.dataclass(frozen=True)
class StudyRow:
    """A row of ``studies.csv``; NaN or None where the headers or the contours do not say."""

    study_id: str
    contour_id: str
    images: int
    i_contours: int
    o_contours: int
    pairs: int
    slices: int
    phases: int
    row_spacing_mm: float
    column_spacing_mm: float
    slice_spacing_mm: float
    registration_peak_dx_px: float
    registration_peak_dy_px: float
    registration_peak: float
    registration_rest: float
    end_diastole_phase: int
    end_systole_phase: int
    edv_ml: float
    esv_ml: float
    stroke_volume_ml: float
    ejection_fraction_percent: float
    volumes_complete: int | None
    volumes_reliable: int | None
    myocardium_volume_ml: float
    mass_g: float


_Lengths = TypeVar("_Lengths", bound=tuple[float, ...])


@functools.lru_cache(1024)
def _same(lengths: _Lengths) -> _Lengths:
    """Equal lengths as one object, which a plan keeps once."""
    return lengths


def planned(pair: Pair, outside: float | None = None, wall: Wall | None = None) -> PlannedPair:
    """What the plan keeps of a pair.

    Args:
        pair: the image and its contour.
        outside: share of the i-contour's area outside the o-contour, where the image has both.
        wall: the myocardium between them.
    """
    header = pair.header
    return PlannedPair(
        **{field.name: getattr(pair, field.name) for field in dataclasses.fields(Match)},
        pixel_spacing_mm=_same(header.pixel_spacing_mm),
        normal=header.normal and _same(header.normal),
        value_range=header.value_range,
        monochrome1=header.monochrome1,
        digest=polygons.digest(pair.polygon),
        points=len(pair.polygon),
        area_px=polygons.area(pair.polygon),
        shape=contrast.shape_of(pair.polygon),
        clockwise=contrast.signed_area(pair.polygon) > 0,
        outside=outside,
        wall=wall,
    )


def unmeasured(pair: PlannedPair) -> PairRow:
    """The row of a pair whose image is not read yet."""
    area_mm2, thickness_mm = pair.wall or (None, None)
    return PairRow(
        study_id=pair.study_id,
        contour_id=pair.contour_id,
        contour_path=pair.contour_path,
        instance_number=pair.instance_number,
        slice_index=pair.slice_index,
        phase_index=pair.phase_index,
        written=0,
        points=pair.points,
        polygon_area_px=pair.area_px,
        mask_area_px=None,
        area_difference_percent=None,
        mean_inside=None,
        mean_ring=None,
        inner_inside_outer_percent=None if pair.outside is None else 100 * (1 - pair.outside),
        implausibility=None,
        myocardium_area_mm2=area_mm2,
        wall_thickness_mm=thickness_mm,
    )


def measured(
    row: PairRow,
    pixels: npt.NDArray[np.generic],
    mask: npt.NDArray[np.bool_],
    written: npt.NDArray[np.bool_],
    polygon: Polygon,
) -> PairRow:
    """The row of a pair that was written.

    Args:
        row: the row before the image was read.
        pixels: the image ``(H, W)`` as its file has it.
        mask: bool ``(H, W)``, drawn on it.
        written: where the mask that is written has the value 1, on the common grid where there is one.
        polygon: the contour on the same grid.
    """
    ring = bands(mask)[1]
    area = int(written.sum())
    return dataclasses.replace(
        row,
        written=1,
        mask_area_px=area,
        area_difference_percent=100 * (area / polygons.area(polygon) - 1),
        mean_inside=float(pixels[mask].mean()),
        mean_ring=float(pixels[ring].mean()) if ring.any() else math.nan,
    )


@dataclasses.dataclass(frozen=True)
class StudySummary:
    """What a study's files and headers say as a whole; NaN where they do not.

    Attributes:
        study_id, contour_id: ids of the study and of its contours.
        i_folder: folder of the first i-contour; None without one.
        images, i_contours, o_contours: files.
        slices, phases: how many there are.
        row_spacing_mm, column_spacing_mm: of the pixels, where all images have the same.
        slice_spacing_mm: median distance between neighboring slices of the stack that has most of them.
        contoured: place of each i-contour, -1 where its image cannot be used.
    """

    study_id: str
    contour_id: str
    i_folder: str | None
    images: int
    i_contours: int
    o_contours: int
    slices: int
    phases: int
    row_spacing_mm: float
    column_spacing_mm: float
    slice_spacing_mm: float
    contoured: Sequence[Place]

    @classmethod
    def of(cls, study: Study, headers: Mapping[int, ImageHeader], places: Mapping[int, Place]) -> StudySummary:
        """From the headers of a study's images, and their places, by number."""
        spacings = {header.pixel_spacing_mm for header in headers.values()}
        row_mm, column_mm = spacings.pop() if len(spacings) == 1 else (math.nan, math.nan)
        return cls(
            study_id=study.study_id,
            contour_id=study.contour_id,
            i_folder=next((path.rpartition("/")[0] for path in study.contours["i"].values()), None),
            images=len(study.images),
            i_contours=len(study.contours["i"]),
            o_contours=len(study.contours["o"]),
            slices=len({place.slice_index for place in places.values() if place.slice_index >= 0}),
            phases=len({place.phase_index for place in places.values() if place.phase_index >= 0}),
            row_spacing_mm=row_mm,
            column_spacing_mm=column_mm,
            slice_spacing_mm=_slice_spacing_mm(places),
            contoured=[places.get(number, NOWHERE) for number in sorted(study.contours["i"])],
        )


def _slice_spacing_mm(places: Mapping[int, Place]) -> float:
    stacks: dict[int, dict[int, float]] = collections.defaultdict(dict)
    for place in places.values():
        if place.slice_index >= 0:
            stacks[place.stack_index].setdefault(place.slice_index, place.location_mm)
    locations = sorted(max(stacks.values(), key=len).values()) if stacks else []
    return float(np.median(np.diff(locations))) if len(locations) > 1 else math.nan


def study_row(
    summary: StudySummary,
    written: int,
    registration: Registration,
    volumes: Volumes,
    myocardium_ml: float,
    reliable: bool,
) -> StudyRow:
    """A study's row, with the number of its pairs that were written, and whether its volumes can be relied on."""
    peak = registration.peak()
    return StudyRow(
        study_id=summary.study_id,
        contour_id=summary.contour_id,
        images=summary.images,
        i_contours=summary.i_contours,
        o_contours=summary.o_contours,
        pairs=written,
        slices=summary.slices,
        phases=summary.phases,
        row_spacing_mm=summary.row_spacing_mm,
        column_spacing_mm=summary.column_spacing_mm,
        slice_spacing_mm=summary.slice_spacing_mm,
        registration_peak_dx_px=peak.dx,
        registration_peak_dy_px=peak.dy,
        registration_peak=peak.contrast,
        registration_rest=peak.contrast_unmoved,
        end_diastole_phase=volumes.end_diastole,
        end_systole_phase=volumes.end_systole,
        edv_ml=volumes.edv_ml,
        esv_ml=volumes.esv_ml,
        stroke_volume_ml=volumes.stroke_ml,
        ejection_fraction_percent=volumes.ejection_fraction_percent,
        volumes_complete=None if volumes.end_diastole < 0 else int(not volumes.missing),
        volumes_reliable=None if volumes.end_diastole < 0 else int(reliable),
        myocardium_volume_ml=myocardium_ml,
        mass_g=myocardium.mass_g(myocardium_ml),
    )
