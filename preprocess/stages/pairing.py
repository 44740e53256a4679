"""Images and contours → pairs, by study and instance number, confirmed by the DICOM header."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from preprocess.findings import Finding, Reason
from preprocess.geometry import Polygon
from preprocess.geometry.grid import Grid
from preprocess.model import (
    KINDS,
    NOWHERE,
    ContourKind,
    Contours,
    Fingerprint,
    ImageHeader,
    Pair,
    Place,
    PlannedPair,
    Study,
)

# Positions further apart than this are different slices. Scanners round positions to 0.001 mm.
_SAME_SLICE_MM = 0.1

# Direction cosines further apart than this belong to different stacks: between directions 0.1° apart, cosines differ by
# at most this. Cosines rounded to three decimals differ by 0.001 within a stack; separate stacks differ by degrees.
_SAME_STACK = math.radians(0.1)


def match_headers(study: Study, headers: Mapping[int, ImageHeader]) -> tuple[dict[int, ImageHeader], list[Finding]]:
    """The headers that match the names of folder and file, by number, and a finding for each of the others."""
    confirmed, findings = {}, []
    for number, header in sorted(headers.items()):
        disagreeing = _disagreeing(study, number, header)
        if disagreeing:
            path = study.images[number]
            findings.append(Finding(Reason.HEADER_MISMATCH, "image", path, disagreeing, study.study_id, number))
        else:
            confirmed[number] = header
    return confirmed, findings


def pair(
    study: Study,
    kind: ContourKind,
    headers: Mapping[int, ImageHeader],
    places: Mapping[int, Place],
    fingerprints: Mapping[int, Fingerprint],
    grids: Mapping[int, Grid],
    polygons: Mapping[int, Polygon],
) -> list[Pair]:
    """The pairs of a study: each image with its contour of one kind, sorted by number.

    Args:
        study: the study.
        kind: inner or outer contours.
        headers: the header of each image that matches its names, by number.
        places: slice and phase of each of these images.
        fingerprints: of each image that has a contour.
        grids: the pixel grid of each image that has a contour.
        polygons: each contour that could be read, by number.
    """
    return [
        Pair(
            study_id=study.study_id,
            contour_id=study.contour_id,
            kind=kind,
            instance_number=number,
            image_path=study.images[number],
            contour_path=study.contours[kind][number],
            header=headers[number],
            polygon=polygon,
            slice_index=places[number].slice_index,
            phase_index=places[number].phase_index,
            fingerprint=fingerprints[number],
            grid=grids[number],
        )
        for number, polygon in sorted(polygons.items())
        if number in headers
    ]


def chosen(pairs: Mapping[ContourKind, Sequence[PlannedPair]], contours: Contours) -> Sequence[PlannedPair]:
    """The pairs that are written: those of one kind of contour, or the images that have both kinds."""
    if contours != "io":
        return pairs[contours]
    outer = {pair.key: pair for pair in pairs["o"]}
    return [dataclasses.replace(pair, outer=outer[pair.key]) for pair in pairs["i"] if pair.key in outer]


def unmatched_contours(
    study: Study, kind: ContourKind, headers: Mapping[int, ImageHeader], polygons: Mapping[int, Polygon]
) -> list[Finding]:
    """A finding for each contour without a usable image; ``headers`` are those of all images that could be read."""
    return [
        without_image(study.study_id, number, study.images.get(number), study.contours[kind][number], kind)
        for number in sorted(polygons)
        if number not in headers
    ]


def unconfirmed(study: Study, pairs: Sequence[Pair]) -> list[Finding]:
    """One finding, or none: how many of a study's pairs the header cannot confirm, or only in part."""
    if study.patient_ids is None:
        return []
    absent = {
        "Patient ID (0010,0020)": sum(pair.header.patient_id is None for pair in pairs),
        "Instance Number (0020,0013)": sum(pair.header.instance_number is None for pair in pairs),
    }
    counts = [f"no {element} in {count}" for element, count in absent.items() if count]
    if not counts:
        return []
    absences = " and ".join(counts)
    detail = f"of {len(pairs)} images with a contour: {absences}; only the names of folder and file confirm these"
    folder = pairs[0].image_path.rpartition("/")[0]
    return [Finding(Reason.UNCONFIRMED, "study", folder, detail, study.study_id)]


def unlabeled(study: Study, contours: Contours) -> list[Finding]:
    """One finding, or none: how many of a study's images have no contour of a kind that is written."""
    numbers = study.images.keys() - {number for kind in KINDS if kind in contours for number in study.contours[kind]}
    if not numbers:
        return []
    folder = study.images[min(numbers)].rpartition("/")[0]
    what = "contour" if contours == "io" else f"{contours}-contour"
    detail = f"{len(numbers)} of {len(study.images)} images have no {what}"
    return [Finding(Reason.UNLABELED_IMAGES, "study", folder, detail, study.study_id)]


def without_image(study_id: str, number: int, image_path: str | None, contour_path: str, kind: ContourKind) -> Finding:
    """The finding for a contour whose image is missing (no path) or cannot be used."""
    detail = (
        f"its image {image_path} cannot be used; another row says why"
        if image_path
        else f"study {study_id} has no image {number}"
    )
    return Finding(Reason.NO_IMAGE, "contour", contour_path, detail, study_id, number, contour=kind)


def _disagreeing(study: Study, number: int, header: ImageHeader) -> str:
    """Names the elements that do not match folder and file, never their values. An absent element matches."""
    wrong: list[str] = []
    if study.patient_ids is None:
        return ""
    if header.patient_id not in (None, *study.patient_ids):
        wrong.append("Patient ID (0010,0020) is not the folder's name")
    if header.instance_number not in (None, number):
        wrong.append("Instance Number (0020,0013) is not the file's number")
    return " and ".join(wrong)


def locate(headers: Mapping[int, ImageHeader]) -> dict[int, Place]:
    """Stack, slice, phase and location of each image of a study.

    Images with one orientation are a stack; images of a stack with one position along its normal are a slice. Slices
    are numbered along the normal, from the end that has the lower instance number. The phases of a slice are numbered
    by Trigger Time, or by instance number if one of its images has none.
    """
    places = dict.fromkeys(headers, NOWHERE)
    orientations = {
        number: header.orientation
        for number, header in headers.items()
        if header.orientation is not None and header.position_mm is not None
    }
    first_slice = 0
    for stack_index, numbers in enumerate(_stacks(orientations)):
        # One normal for the stack: far from the origin, a tiny tilt would move an image past its neighbor.
        normal = headers[numbers[0]].normal
        locations = {number: headers[number].location_along_mm(normal) for number in numbers}
        slices = _divided(numbers, locations, _SAME_SLICE_MM)
        if min(slices[0]) > min(slices[-1]):
            slices.reverse()
        for slice_index, members in enumerate(slices, start=first_slice):
            timed = not any(math.isnan(headers[number].trigger_time_ms) for number in members)
            members.sort(key=lambda number: (headers[number].trigger_time_ms if timed else 0.0, number))
            for phase_index, number in enumerate(members):
                places[number] = Place(stack_index, slice_index, phase_index, locations[number])
        first_slice += len(slices)
    return places


def _stacks(orientations: Mapping[int, tuple[float, ...]]) -> list[list[int]]:
    """The instance numbers of each stack, the stack with the lowest number first.

    Images are divided at gaps in each of the six cosines, until there is no gap left. Rounding the cosines instead
    could separate two that are close.
    """
    pending, stacks = [sorted(orientations)] if orientations else [], []
    while pending:
        numbers = pending.pop()
        for axis in range(6):
            cosines = {number: orientations[number][axis] for number in numbers}
            parts = _divided(numbers, cosines, _SAME_STACK)
            if len(parts) > 1:
                pending += parts
                break
        else:
            stacks.append(sorted(numbers))
    return sorted(stacks)


def _divided(numbers: list[int], values: Mapping[int, float], gap: float) -> list[list[int]]:
    """Numbers sorted by value, divided where two neighbors are further apart than a gap."""
    ordered = sorted(numbers, key=lambda number: values[number])
    parts = [ordered[:1]]
    for before, number in itertools.pairwise(ordered):
        if values[number] - values[before] > gap:
            parts.append([])
        parts[-1].append(number)
    return parts
