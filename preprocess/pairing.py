"""images × contours → pairs: by study and number, confirmed by the DICOM header."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from preprocess.errors import Finding
from preprocess.study import ContourKind, ImageHeader, Pair, Polygon, Study

# Two positions further apart than this are two slices. Scanners round positions to 0.001 mm.
_SAME_SLICE_MM = 0.1


class Place(NamedTuple):
    """Where an image lies in its study; -1 where the headers do not say."""

    slice_index: int
    phase_index: int


def pair(
    study: Study, kind: ContourKind, headers: Mapping[int, ImageHeader], polygons: Mapping[int, Polygon]
) -> tuple[list[Pair], list[Finding]]:
    """Pairs a study's images with its contours of one kind.

    Args:
        study: the study.
        kind: which contours.
        headers: header of each image that could be read, by number.
        polygons: polygon of each contour that could be read, by number.

    Returns:
        The pairs, by number, and a finding for all that is left over.
    """
    findings = []
    confirmed = {}
    for number, header in sorted(headers.items()):
        disagreeing = _disagreeing(study, number, header)
        if disagreeing:
            findings.append(
                Finding("header_mismatch", "image", study.images[number], disagreeing, study.study_id, number)
            )
        else:
            confirmed[number] = header
    places = locate(confirmed)
    pairs = []
    for number, polygon in sorted(polygons.items()):
        path = study.contours[kind][number]
        if number in confirmed:
            image_path = study.images[number]
            header = confirmed[number]
            pairs.append(
                Pair(study.study_id, study.contour_id, number, image_path, path, header, polygon, *places[number])
            )
        elif number not in headers:
            findings.append(without_image(study.study_id, number, study.images.get(number), path))
    unlabeled = study.images.keys() - study.contours[kind].keys()
    if unlabeled:
        folder = study.images[min(unlabeled)].rpartition("/")[0]
        detail = f"{len(unlabeled)} of {len(study.images)} images have no {kind}-contour"
        findings.append(Finding("unlabeled_images", "study", folder, detail, study.study_id))
    return pairs, findings


def without_image(study_id: str, number: int, image_path: str | None, contour_path: str) -> Finding:
    """What is found of a contour whose image is missing (no path) or cannot be used."""
    detail = f"its image {image_path} cannot be used" if image_path else f"study {study_id} has no image {number}.dcm"
    return Finding("no_image", "contour", contour_path, detail, study_id, number)


def _disagreeing(study: Study, number: int, header: ImageHeader) -> str:
    """Which elements disagree with folder and file name; an absent element says nothing. Never their values."""
    wrong = []
    if header.patient_id not in (None, study.study_id):
        wrong.append("Patient ID (0010,0020) is not the folder's name")
    if header.instance_number not in (None, number):
        wrong.append("Instance Number (0020,0013) is not the file's number")
    return " and ".join(wrong)


def locate(headers: Mapping[int, ImageHeader]) -> dict[int, Place]:
    """Slice and phase of each image of a study.

    Images of one orientation whose positions along the slice normal agree are a slice; slices are numbered along the
    normal, from the end that has the lower image number. Within a slice phases are numbered by Trigger Time, or by
    image number where an image has none.
    """
    places = {number: Place(-1, -1) for number in headers}
    views: dict[tuple[float, ...], list[int]] = collections.defaultdict(list)
    for number, header in sorted(headers.items()):
        if header.orientation is not None and not math.isnan(header.location_mm):
            views[tuple(round(cosine, 3) for cosine in header.orientation)].append(number)
    first_slice = 0
    for numbers in views.values():
        slices = _slices(numbers, headers)
        for slice_index, members in enumerate(slices, start=first_slice):
            timed = not any(math.isnan(headers[number].trigger_time_ms) for number in members)
            members.sort(key=lambda number: (headers[number].trigger_time_ms if timed else 0.0, number))
            for phase_index, number in enumerate(members):
                places[number] = Place(slice_index, phase_index)
        first_slice += len(slices)
    return places


def _slices(numbers: list[int], headers: Mapping[int, ImageHeader]) -> list[list[int]]:
    """Image numbers by slice, the slices along the normal."""
    along = sorted(numbers, key=lambda number: headers[number].location_mm)
    slices = [along[:1]]
    for before, number in itertools.pairwise(along):
        if headers[number].location_mm - headers[before].location_mm > _SAME_SLICE_MM:
            slices.append([])
        slices[-1].append(number)
    return slices if min(slices[0]) <= min(slices[-1]) else slices[::-1]
