"""Reads one study, headers and contours, and pairs its images with its contours."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.dicom.elements import silent
from preprocess.findings import Finding, InputError, Reason, about
from preprocess.geometry import Polygon, polygons
from preprocess.geometry.grid import Grid
from preprocess.inputs.contour_files import ContourFiles
from preprocess.inputs.contours import check_together
from preprocess.inputs.sources import Source, opened
from preprocess.model import KINDS, ContourKind, Fingerprint, ImageHeader, Key, Pair, PlannedPair, Study
from preprocess.quality import checks, measurements
from preprocess.quality.measurements import StudySummary
from preprocess.quality.myocardium import Wall
from preprocess.stages import pairing


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A study that was read.

    Attributes:
        study: the study.
        pairs: for each kind of contour, sorted by instance number.
        summary: what the files and headers say about the study.
        findings: everything that is missing, odd or wrong.
    """

    study: Study
    pairs: Mapping[ContourKind, Sequence[Pair]]
    summary: StudySummary
    findings: Sequence[Finding]


@dataclasses.dataclass(frozen=True)
class Examined:
    """What the plan needs of a study. Of images without a contour it keeps only the summary.

    Attributes:
        contours: for each kind, the path of each contour, used or not, by the number of its image.
        pairs: for each kind of contour, sorted by instance number.
        summary: what the files and headers say about the study.
        findings: everything that is missing, odd or wrong, whatever is written.
        outlines: what is odd about the outlines of the contours in ``pairs``.
    """

    contours: Mapping[ContourKind, Mapping[int, str]]
    pairs: Mapping[ContourKind, Sequence[PlannedPair]]
    summary: StudySummary
    findings: Sequence[Finding]
    outlines: Sequence[Finding]


def examine(source: Source, config: Config, study: Study) -> Examined:
    """Reads a study, and measures and checks its contours, each for itself and with the other one of its image."""
    loaded = load(source, config, study)
    outer = {pair.key: pair.polygon for pair in loaded.pairs["o"]}
    both: dict[Key, tuple[float, Wall]] = {}
    for pair in loaded.pairs["i"]:
        if pair.key in outer:
            outside = polygons.share_outside(pair.polygon, outer[pair.key])
            wall = Wall.between(pair.polygon, outer[pair.key], pair.header.pixel_spacing_mm, outside)
            both[pair.key] = outside, wall
    every = [pair for kind in KINDS for pair in loaded.pairs[kind]]
    return Examined(
        contours=study.contours,
        pairs={
            kind: [measurements.planned(pair, *both.get(pair.key, ())) for pair in pairs]
            for kind, pairs in loaded.pairs.items()
        },
        summary=loaded.summary,
        findings=loaded.findings,
        outlines=[*checks.self_intersecting(every), *checks.open_contours(every)],
    )


def load(source: Source, config: Config, study: Study) -> Loaded:
    """Reads every header and contour of a study, decodes no pixels, and pairs them."""
    findings: list[Finding] = []
    labeled = study.contours["i"].keys() | study.contours["o"].keys()
    headers: dict[int, ImageHeader] = {}
    fingerprints: dict[int, Fingerprint] = {}
    grids: dict[int, Grid] = {}
    with silent():
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
        outlines: dict[int, Polygon] = {}
        for number, path in study.contours[kind].items():
            with _as_finding(findings, study.study_id, number, kind), about(path):
                outline = contour_files.read(path, functools.partial(headers.get, number))
                if kind == "o" and number in inner:
                    check_together(inner[number], outline)
                outlines[number] = outline
        inner = outlines
        pairs[kind] = pairing.pair(study, kind, confirmed, places, fingerprints, grids, outlines)
        findings += pairing.unmatched_contours(study, kind, headers, outlines)
    first, *others = (pairs[kind] for kind in KINDS if kind in config.contours)
    complete = set.intersection(*({pair.key for pair in of_kind} for of_kind in (first, *others)))
    findings += pairing.unconfirmed(study, [pair for pair in first if pair.key in complete])
    findings += pairing.unlabeled(study, config.contours)
    return Loaded(study, pairs, StudySummary.of(study, confirmed, places), findings)


@contextlib.contextmanager
def _as_finding(findings: list[Finding], study_id: str, number: int, contour: str = "") -> Iterator[None]:
    """Turns an error about one file into a finding."""
    try:
        yield
    except InputError as error:
        findings.append(Finding.of(error, study_id, number, contour))
