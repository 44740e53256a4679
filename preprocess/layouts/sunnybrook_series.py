"""The series of a study that its contours were drawn on, where names alone do not say it."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Finding, InputError, Level, Reason, counted, some
from preprocess.geometry import Polygon
from preprocess.inputs.contour_files import ContourFiles
from preprocess.inputs.sources import Source, opened
from preprocess.layouts.sunnybrook_ids import canonical, looks_like_an_id
from preprocess.model import KINDS, ContourKind
from preprocess.quality import contrast
from preprocess.quality.plausibility import STUDY_CONTRAST

_SHORT_AXIS = re.compile(r"SAX|short[ _-]*ax", re.IGNORECASE)
_OTHER_VIEW = re.compile(r"LAX|long[ _-]*ax|[2-4][ _-]*ch|LVOT|scout|locali[sz]er|perf", re.IGNORECASE)

CLEARLY_HIGHER = 0.1
"""The contours were drawn on one of two series if the median contrast across them is at least this much higher there.

In four real studies, the median contrast on slices two or more away is 0.13 to 0.39 lower than on the right ones, and
on the next slice 0.05 to 0.24 lower. On the next phases it differs by -0.01 to 0.07, which decides nothing."""

_MOST_HEADERS = 5
"""Images of a series whose header is tried: more that cannot be read are no accident."""

_LEAST_CONTOURS = 3
"""Inner contours that make a median."""


class Series(NamedTuple):
    """Images that are numbered together.

    Attributes:
        place: the study's folder.
        folder: the images' folder, ``place`` or one below it.
        prefix: the first number in the images' names.
        images: number and path of each image, sorted.
    """

    place: str
    folder: str
    prefix: int
    images: tuple[tuple[int, str], ...]

    @property
    def name(self) -> str:
        """How its images are named, for messages."""
        return f"{self.folder}/IM-{self.prefix:04d}-…"

    def missing(self, wanted: Iterable[int]) -> list[int]:
        """The wanted numbers that no image has."""
        return sorted(set(wanted) - {number for number, _ in self.images})


class Question(NamedTuple):
    """A study whose series has to be found.

    Attributes:
        study_id: its id.
        names: its ids, in every spelling.
        others: the ids of all studies, in their canonical spelling.
        series: all its series.
        contours: as in :class:`preprocess.model.Study`.
    """

    study_id: str
    names: frozenset[str]
    others: frozenset[str]
    series: tuple[Series, ...]
    contours: Mapping[ContourKind, Mapping[int, str]]

    @property
    def numbers(self) -> set[int]:
        """Of the images that have a contour."""
        return {number for kind in KINDS for number in self.contours[kind]}


class Answer(NamedTuple):
    """The series that a study's contours were drawn on.

    Attributes:
        series: None if it cannot be determined.
        patient_id: Patient ID of its images where it is of no study of this data set, and so contradicts nothing.
        findings: what is odd or wrong.
    """

    series: Series | None
    patient_id: str | None
    findings: Sequence[Finding]


def choose(source: Source, config: Config, question: Question) -> Answer:
    """Finds the series that a study's contours were drawn on.

    A series is short-axis if the name of its folder, or else Series Description, says so. If no series says so, each
    that does not say that it is another view may be. Of these, it is the one with an image for each contour. If several
    have that, contrast across the inner contours decides. What remains open is an error, and never guessed.

    Args:
        source: the data set.
        config: the settings.
        question: the study.
    """
    headers = {series: _series_header(source, config, series) for series in question.series}
    short_axis = [series for series in question.series if _is_short_axis(series, headers[series].description)]
    unnamed = [series for series in question.series if _is_short_axis(series, headers[series].description) is None]
    if not short_axis and not unnamed:
        detail = f"none of its {counted(len(question.series), 'series', 'series')} is a short-axis series"
        path = question.series[0].place
        return Answer(None, None, [Finding(Reason.MISSING_STUDY, "study", path, detail, question.study_id)])
    complete = [series for series in (*short_axis, *unnamed) if not series.missing(question.numbers)]
    if problem := _in_several_places(question, complete):
        return Answer(None, None, [problem])
    candidates = short_axis or unnamed
    covering = [series for series in candidates if series in complete]
    if not covering and len(short_axis) != 1:
        return Answer(None, None, [_incomplete(question, candidates)])
    chosen, findings = _the_one(source, config, question, covering or candidates)
    if chosen is None:
        return Answer(None, None, findings)
    patient_id = headers[chosen].patient_id
    if patient_id is None or patient_id in question.names:
        return Answer(chosen, None, findings)
    if canonical(patient_id) in map(canonical, question.names):
        return Answer(chosen, patient_id, findings)
    if canonical(patient_id) in question.others or looks_like_an_id(patient_id):
        # Of another study: loading the images reports each of them.
        return Answer(chosen, None, findings)
    detail = (
        "Patient ID (0010,0020) is of no study of this data set; only the names of folder and file confirm the images"
    )
    findings.append(Finding(Reason.UNCONFIRMED, "study", chosen.folder, detail, question.study_id))
    return Answer(chosen, patient_id, findings)


def _in_several_places(question: Question, complete: Sequence[Series]) -> Finding | None:
    """A finding if several folders have an image for each contour of a study, which may be another version of it."""
    places = sorted({series.place for series in complete})
    return ambiguous_folders(question.study_id, "images", places) if len(places) > 1 else None


def _the_one(
    source: Source, config: Config, question: Question, candidates: Sequence[Series]
) -> tuple[Series | None, list[Finding]]:
    """The one of several series that the contours were drawn on; None if it cannot be determined."""
    if len(candidates) == 1:
        return candidates[0], []
    distinct, findings = _without_copies(source, config, question, candidates)
    if len(distinct) == 1:
        return distinct[0], findings
    contrasts = {series: _median_contrast(source, config, question, series) for series in distinct}
    ranked = sorted(distinct, key=lambda series: (math.isnan(contrasts[series]), -contrasts[series], series))
    best, second = (contrasts[series] for series in ranked[:2])
    # Also false where one of them is NaN.
    if best >= STUDY_CONTRAST and best - second >= CLEARLY_HIGHER:
        return ranked[0], findings
    shown = some([f"{series.name} (contrast {contrasts[series]:.2f})" for series in ranked])
    detail = f"{len(distinct)} series have an image for each contour, and contrast does not decide: {shown}"
    return None, [*findings, ambiguous(question.study_id, ranked[0].place, detail)]


def _without_copies(
    source: Source, config: Config, question: Question, candidates: Sequence[Series]
) -> tuple[list[Series], list[Finding]]:
    """The series that differ in the pixels of an image with a contour, and a finding for each that is a copy."""
    firsts: dict[object, Series] = {}
    findings = []
    for series in candidates:
        pixels = _pixel_digests(source, config, series, question.numbers)
        first = firsts.setdefault(series if None in pixels else pixels, series)
        if first is not series:
            detail = f"the images with a contour have the same pixels as those of {first.name}, which is used"
            findings.append(
                Finding(Reason.DUPLICATE_IMAGE, "study", series.name, detail, question.study_id, level=Level.WARNING)
            )
    return list(firsts.values()), findings


def _pixel_digests(source: Source, config: Config, series: Series, wanted: set[int]) -> tuple[bytes | None, ...]:
    """Of each image with a wanted number; None for one that cannot be read."""
    digests: list[bytes | None] = []
    for number, path in series.images:
        if number in wanted:
            digests.append(None)
            with contextlib.suppress(InputError), opened(source, path, Reason.UNREADABLE_IMAGE) as file:
                digests[-1] = reader.read_fingerprint(file, config.max_image_pixels)[1].pixels
    return tuple(digests)


def _median_contrast(source: Source, config: Config, question: Question, series: Series) -> float:
    """Median contrast of the images of a series along the inner contours; NaN if there are too few."""
    found = []
    images = dict(series.images)
    for number, polygon in _inner_contours(source, config, question):
        with contextlib.suppress(InputError), opened(source, images[number], Reason.UNREADABLE_IMAGE) as file:
            header = reader.read_header(file, config.max_image_pixels)
            file.seek(0)
            pixels = reader.read_pixels(file, config.max_image_pixels)
            found.append(contrast.measure(pixels, polygon, header, "i").own)
    known = [one for one in found if not math.isnan(one)]
    return float(np.median(known)) if len(known) >= _LEAST_CONTOURS else math.nan


def _inner_contours(source: Source, config: Config, question: Question) -> Iterator[tuple[int, Polygon]]:
    """The inner contours that can be read."""
    files = ContourFiles(source, config.origin)
    for number, path in question.contours["i"].items():
        with contextlib.suppress(InputError):
            yield number, files.read(path, lambda: None)


def _is_short_axis(series: Series, description: str) -> bool | None:
    """Whether a series says that it is short-axis; None if it does not say what it is."""
    for text in (series.folder[len(series.place) :], description):
        # First, because perfusion is short-axis, too.
        if _OTHER_VIEW.search(text):
            return False
        if _SHORT_AXIS.search(text):
            return True
    return None


def _series_header(source: Source, config: Config, series: Series) -> reader.SeriesHeader:
    """From the first image that can be read, of a few."""
    for _, path in series.images[:_MOST_HEADERS]:
        with contextlib.suppress(InputError), opened(source, path, Reason.UNREADABLE_IMAGE) as file:
            return reader.read_series_header(file, config.max_image_pixels)
    return reader.SeriesHeader("", None)


def _incomplete(question: Question, candidates: Sequence[Series]) -> Finding:
    """The finding for a study none of whose series has an image for each contour."""
    missing = {series: series.missing(question.numbers) for series in candidates}
    ranked = sorted(candidates, key=lambda series: (len(missing[series]), series))
    shown = some([f"{series.name} lacks {some([str(number) for number in missing[series]])}" for series in ranked])
    detail = f"no series has an image for each contour: {shown}"
    remedy = "add the images, or name the folder of the right series CINESAX"
    return ambiguous(question.study_id, ranked[0].place, detail, remedy)


def ambiguous_folders(study_id: str, what: str, folders: Sequence[str]) -> Finding:
    """The finding for a study whose images or contours are in several folders."""
    return ambiguous(study_id, folders[0], f"its {what} are in {len(folders)} folders: {some(folders)}")


def ambiguous(study_id: str, path: str, detail: str, remedy: str = "") -> Finding:
    """The finding for a study whose images or contours cannot be determined."""
    return Finding(Reason.AMBIGUOUS_STUDY, "study", path, detail, study_id, remedy=remedy)
