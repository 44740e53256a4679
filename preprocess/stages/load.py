"""Reads one study, headers and contours, and pairs its images with its contours."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Finding, InputError, Reason, about
from preprocess.geometry import Polygon
from preprocess.geometry.grid import Grid
from preprocess.inputs.contour_files import ContourFiles
from preprocess.inputs.contours import check_together
from preprocess.inputs.sources import Source, opened
from preprocess.model import KINDS, ContourKind, Fingerprint, ImageHeader, Key, Pair, Study
from preprocess.quality.measurements import StudySummary
from preprocess.quality.myocardium import Wall
from preprocess.stages import pairing


@dataclasses.dataclass(frozen=True)
class Examined:
    """A study that was read. Of images without a contour it keeps only the summary.

    Attributes:
        pairs: for each kind of contour, sorted by instance number.
        summary: what the files and headers say about the study.
        walls: the myocardium of each image that has both contours.
        findings: everything that is missing, odd or wrong.
    """

    study: Study
    pairs: Mapping[ContourKind, Sequence[Pair]]
    summary: StudySummary
    walls: Mapping[Key, Wall]
    findings: Sequence[Finding]


def examine(source: Source, config: Config, study: Study) -> Examined:
    """Reads every header and contour of a study, decodes no pixels, and pairs them."""
    findings: list[Finding] = []
    labeled = study.contours["i"].keys() | study.contours["o"].keys()
    headers: dict[int, ImageHeader] = {}
    fingerprints: dict[int, Fingerprint] = {}
    grids: dict[int, Grid] = {}
    for number, path in study.images.items():
        with (
            _as_finding(findings, study.study_id, number),
            opened(source, path, Reason.UNREADABLE_IMAGE) as file,
        ):
            if number in labeled:
                header, fingerprints[number] = reader.read_fingerprint(file, config.max_image_pixels)
                grids[number] = config.grid_of(header)
            else:
                header = reader.read_header(file, config.max_image_pixels)
            headers[number] = header
    confirmed, mismatches = pairing.match_headers(study, headers)
    findings += mismatches
    places = pairing.locate(confirmed)
    contour_files = ContourFiles(source, config.origin)
    pairs: dict[ContourKind, list[Pair]] = {}
    inner: Mapping[int, Polygon] = {}
    for kind in KINDS:
        polygons: dict[int, Polygon] = {}
        for number, path in study.contours[kind].items():
            with _as_finding(findings, study.study_id, number, kind), about(path):
                polygon = contour_files.read(path, functools.partial(headers.get, number))
                if kind == "o" and number in inner:
                    check_together(inner[number], polygon)
                polygons[number] = polygon
        inner = polygons
        pairs[kind] = pairing.pair(study, kind, confirmed, places, fingerprints, grids, polygons)
        findings += pairing.unmatched_contours(study, kind, headers, polygons)
    findings += pairing.unconfirmed(study, pairing.chosen(pairs, config.contours))
    findings += pairing.unlabeled(study, config.contours)
    walls = {
        pair.key: Wall.between(pair.polygon, pair.outer.polygon, pair.header.pixel_spacing_mm)
        for pair in pairing.chosen(pairs, "io")
        if pair.outer
    }
    return Examined(study, pairs, StudySummary.of(study, confirmed, places), walls, findings)


@contextlib.contextmanager
def _as_finding(findings: list[Finding], study_id: str, number: int, contour: str = "") -> Iterator[None]:
    """Turns an error about one file into a finding."""
    try:
        yield
    except InputError as error:
        findings.append(Finding.of(error, study_id, number, contour))
