"""Cavity volumes of a study by slice summation, and which slices they lack."""

from __future__ import annotations

import collections
import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence

from preprocess.model import Place, PlannedPair


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Cavity volumes by slice summation: area × spacing between slices.

    Attributes:
        areas_px: cavity area by phase and slice.
        end_diastole: the phase of the largest cavity on the slices that all phases have a contour of, -1 when unknown.
        end_systole: the phase of the smallest, -1 when unknown.
        edv_ml: volume at end-diastole; NaN when unknown.
        esv_ml: volume at end-systole; NaN when unknown.
        missing: slices that lack a contour, by phase; the volumes are too small there.
        doubtful: slices whose contour is implausible, by phase.
    """

    areas_px: Mapping[int, Mapping[int, float]]
    end_diastole: int
    end_systole: int
    edv_ml: float
    esv_ml: float
    missing: Mapping[int, Sequence[int]]
    doubtful: Mapping[int, Sequence[int]]

    @classmethod
    def of(
        cls,
        areas: Iterable[tuple[PlannedPair, float]],
        slice_spacing_mm: float,
        contoured: Sequence[Place] = (),
        expected: Mapping[str, float] = types.MappingProxyType({}),
    ) -> Volumes:
        """From a study's i-contours.

        The volumes are those of the contours as they are drawn. Which phases are end-diastole and end-systole is
        decided with the expected area in place of an implausible one, so that a runaway contour does not choose them.

        Args:
            areas: pairs that can be used, each with its area in square pixels.
            slice_spacing_mm: distance between neighboring slices.
            contoured: places of all i-contours of the study.
            expected: the area that the neighbors of each implausible contour predict, in square pixels, by its path.
        """
        by_phase: dict[int, dict[int, float]] = collections.defaultdict(dict)
        likely: dict[int, dict[int, float]] = collections.defaultdict(dict)
        doubtful: dict[int, list[int]] = collections.defaultdict(list)
        totals: dict[int, float] = collections.defaultdict(float)
        for pair, area in areas:
            if pair.phase_index >= 0:
                rows_mm, columns_mm = pair.pixel_spacing_mm
                by_phase[pair.phase_index][pair.slice_index] = area
                likely[pair.phase_index][pair.slice_index] = expected.get(pair.contour_path, area)
                if pair.contour_path in expected:
                    doubtful[pair.phase_index].append(pair.slice_index)
                totals[pair.phase_index] += area * rows_mm * columns_mm * slice_spacing_mm / 1000
        end_diastole, end_systole = -1, -1
        if len(totals) > 1 and not any(map(math.isnan, totals.values())):
            end_diastole, end_systole = _extremes(likely)
        missing = _missing(by_phase, end_diastole, end_systole, contoured)
        edv_ml, esv_ml = totals.get(end_diastole, math.nan), totals.get(end_systole, math.nan)
        return cls(
            areas_px=dict(by_phase),
            end_diastole=end_diastole,
            end_systole=end_systole,
            edv_ml=edv_ml,
            esv_ml=esv_ml,
            missing=missing,
            doubtful={phase: sorted(slices) for phase, slices in sorted(doubtful.items())},
        )

    @property
    def stroke_ml(self) -> float:
        """Volume that a beat expels."""
        return self.edv_ml - self.esv_ml

    @property
    def reliable(self) -> bool:
        """Whether both volumes are known, no slice is missing, and all their contours are plausible."""
        known = self.end_diastole >= 0 and not self.missing
        return known and not self.doubtful.keys() & {self.end_diastole, self.end_systole}

    @property
    def ejection_fraction_percent(self) -> float:
        """Stroke volume as a percentage of the end-diastolic volume; NaN if that is 0."""
        return 100 * self.stroke_ml / self.edv_ml if self.edv_ml else math.nan


def _extremes(areas_px: Mapping[int, Mapping[int, float]]) -> tuple[int, int]:
    """The phases of the largest and of the smallest cavity; the earlier one where two are equal.

    A phase that lost a part of its contours keeps its rank, because only slices that all phases have are compared.
    """
    common = set.intersection(*(set(by_slice) for by_slice in areas_px.values()))
    cavity = {
        phase: sum(by_slice[index] for index in sorted(common or by_slice)) for phase, by_slice in areas_px.items()
    }
    return max(cavity, key=lambda phase: (cavity[phase], -phase)), min(cavity, key=lambda phase: (cavity[phase], phase))


def _missing(
    areas_px: Mapping[int, Mapping[int, float]], end_diastole: int, end_systole: int, contoured: Sequence[Place]
) -> dict[int, list[int]]:
    """Slices that lack a contour, by phase.

    Their contour could not be used, or they lie between others of the phase, or the other phase shows that they should
    have one. End-systole may have fewer slices than end-diastole, because the base moves and the apex closes, but not
    fewer than half.
    """
    missing: dict[int, set[int]] = collections.defaultdict(set)
    for place in contoured:
        if place.phase_index >= 0 and place.slice_index not in areas_px.get(place.phase_index, {}):
            missing[place.phase_index].add(place.slice_index)
    if end_diastole >= 0:
        large, small = set(areas_px[end_diastole]), set(areas_px[end_systole])
        for phase, slices in ((end_diastole, large), (end_systole, small)):
            missing[phase] |= set(range(min(slices), max(slices))) - slices
        missing[end_diastole] |= small - large
        if any(place.slice_index < 0 for place in contoured) or 2 * len(small) < len(large):
            missing[end_systole] |= large - small
    return {phase: sorted(slices) for phase, slices in sorted(missing.items()) if slices}
