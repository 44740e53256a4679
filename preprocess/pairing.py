"""images × contours → pairs: by study and number, confirmed by the DICOM header."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Mapping, Sequence

from preprocess.errors import Finding
from preprocess.study import ContourKind, ImageHeader, Pair, Place, Polygon, Study

# Two positions further apart than this are two slices. Scanners round positions to 0.001 mm.
_SAME_SLICE_MM = 0.1


def confirm(study: Study, headers: Mapping[int, ImageHeader]) -> tuple[dict[int, ImageHeader], list[Finding]]:
    """The headers that agree with folder and file name, by number, and a finding for each of the others."""
    confirmed, findings = {}, []
    for number, header in sorted(headers.items()):
        disagreeing = _disagreeing(study, number, header)
        if disagreeing:
            path = study.images[number]
            findings.append(Finding("header_mismatch", "image", path, disagreeing, study.study_id, number))
        else:
            confirmed[number] = header
    return confirmed, findings


def pair(
    study: Study,
    kind: ContourKind,
    headers: Mapping[int, ImageHeader],
    places: Mapping[int, Place],
    polygons: Mapping[int, Polygon],
) -> list[Pair]:
    """A study's images with the contour of one kind on each, by number.

    Args:
        study: the study.
        kind: which contours.
        headers: header of each image that was confirmed, by number.
        places: slice and phase of each of them.
        polygons: polygon of each contour that could be read, by number.
    """
    return [
        Pair(
            study.study_id,
            study.contour_id,
            kind,
            number,
            study.images[number],
            study.contours[kind][number],
            headers[number],
            polygon,
            *places[number],
        )
        for number, polygon in sorted(polygons.items())
        if number in headers
    ]


def left_over(
    study: Study, kind: ContourKind, headers: Mapping[int, ImageHeader], polygons: Mapping[int, Polygon]
) -> list[Finding]:
    """Contours of one kind without an image: ``headers`` are those of all images that could be read."""
    return [
        without_image(study.study_id, number, study.images.get(number), study.contours[kind][number])
        for number in sorted(polygons)
        if number not in headers
    ]


def unconfirmed(study: Study, pairs: Sequence[Pair]) -> list[Finding]:
    """How many of a study's pairs the header confirms in part or not at all: one finding, or none."""
    absent = {
        "Patient ID (0010,0020)": sum(pair.header.patient_id is None for pair in pairs),
        "Instance Number (0020,0013)": sum(pair.header.instance_number is None for pair in pairs),
    }
    counts = [f"{count} of {len(pairs)} have no {element}" for element, count in absent.items() if count]
    if not counts:
        return []
    detail = f"of the paired images {' and '.join(counts)}: only the names of folder and file confirm these pairs"
    folder = pairs[0].image_path.rpartition("/")[0]
    return [Finding("unconfirmed", "study", folder, detail, study.study_id, count=max(absent.values()))]


def unlabeled(study: Study, kind: ContourKind) -> list[Finding]:
    """How many of a study's images have no contour of one kind: one finding, or none."""
    numbers = study.images.keys() - study.contours[kind].keys()
    if not numbers:
        return []
    folder = study.images[min(numbers)].rpartition("/")[0]
    detail = f"{len(numbers)} of {len(study.images)} images have no {kind}-contour"
    return [Finding("unlabeled_images", "study", folder, detail, study.study_id)]


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
        if header.view is not None and not math.isnan(header.location_mm):
            views[header.view].append(number)
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
