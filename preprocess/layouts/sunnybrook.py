"""The whole Sunnybrook Cardiac Data, as its distributions have it.

Three distributions are in use. They differ in where the images are and in how the study is named:

- ``SCD_IMAGES_01/SCD0000101/CINESAX_300/IM-0003-0048.dcm``, beside other series such as ``CINELAX_…``,
- ``…/TrainingDataDICOM/SC-HF-I-01/DICOM/IM-0001-0048.dcm``,
- ``challenge_training/SC-HF-I-1/IM-0004-0048.dcm``, where several series share one folder.

Contours are always ``…/SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt``. The second number is
that of the image within one series; the first number says nothing. ``sunnybrook_series`` finds the series. Coordinates
count from the corner of the top-left pixel, as the authors state.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from preprocess.config import Config
from preprocess.engines import Engine
from preprocess.findings import FatalInputError, Finding, Level, Reason, counted
from preprocess.inputs.sources import Listing, unread_archives
from preprocess.layouts import numbers
from preprocess.layouts.sunnybrook_ids import CSV_NAME, PATIENTS, canonical, looks_like_an_id, read_links, spellings
from preprocess.layouts.sunnybrook_series import Question, Series, ambiguous_folders, choose
from preprocess.layouts.unused import Unused
from preprocess.model import KINDS, ContourKind, Study
from preprocess.terminal import progress

_IMAGE_NAME = re.compile(r"IM-(\d{1,9})-(\d{1,9})\.dcm", re.IGNORECASE | re.ASCII)
_CONTOUR_FOLDERS = re.compile(r"contours-(manual|auto)", re.IGNORECASE)
_EXPERT = "ircci-expert"
_CONTOUR_NAME = re.compile(r"IM-\d{1,9}-(\d{1,9})-([io])contour-manual\.txt", re.IGNORECASE | re.ASCII)
_OTHER_CONTOUR = re.compile(r"IM-\d{1,9}-\d{1,9}-([io]|p\d)contour-(?:manual|auto)\.txt", re.IGNORECASE | re.ASCII)

_USED = (
    "images are STUDY/…/IM-0003-0048.dcm, contours STUDY/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt"
)


class _Contours(NamedTuple):
    """The contours below one folder.

    Attributes:
        used: kind, number and path of each.
        others: what each of those is that are not used.
    """

    used: list[tuple[str, int, str]]
    others: list[str]


class _Files(NamedTuple):
    """The files of a data set, by study's folder.

    Attributes:
        images: prefix and number of each image, by folder of the study.
        contours: by folder of the study.
    """

    images: Mapping[str, Sequence[tuple[int, int, str]]]
    contours: Mapping[str, _Contours]


def recognize(source: Listing) -> str:
    """What of this layout is there; empty if nothing is."""
    known = {canonical(name) for link in PATIENTS.items() for name in link}
    files = _sorted_out(source.paths, known, Unused("", ""))
    counts = {
        "contours-manual/IRCCI-expert/": sum(bool(one.used) for one in files.contours.values()),
        "IM-….dcm": len(files.images),
    }
    return ", ".join(f"{name} of {counted(count, 'study', 'studies')}" for name, count in counts.items() if count)


def discover(source: Listing, config: Config, engine: Engine) -> tuple[list[Study], list[Finding]]:
    """The studies that have images and contours, sorted by id, and what is odd or wrong.

    Raises:
        FatalInputError: there are no images, or no contours.
    """
    unused = Unused(f"an image, a contour or {CSV_NAME}", _USED)
    paths = sorted(unused.without_junk(source.paths))
    tables = {path for path in paths if _name(path).lower() == CSV_NAME}
    originals, findings = read_links(source, sorted(tables))
    study_ids = {canonical(name): study_id for study_id, original in originals.items() for name in (study_id, original)}
    files = _sorted_out((path for path in paths if path not in tables), study_ids.keys(), unused)
    _check_complete(source, files)
    with_contours = {place for place, contours in files.contours.items() if contours.used}
    image_places, contour_places = _by_study(files.images, study_ids), _by_study(with_contours, study_ids)
    findings += _unlinked(with_contours | files.images.keys(), study_ids)
    questions = []
    contour_ids = {}
    for study_id in sorted(image_places.keys() | contour_places.keys()):
        images, contours = image_places.get(study_id, []), contour_places.get(study_id, [])
        if not images or not contours:
            findings.append(_missing(study_id, originals[study_id], images, contours))
            continue
        if len(contours) > 1:
            findings.append(ambiguous_folders(study_id, "contours", contours))
            continue
        contour_ids[study_id] = _name(contours[0])
        by_kind: dict[ContourKind, dict[int, str]] = {}
        for kind in KINDS:
            of_kind = [(number, path) for one, number, path in files.contours[contours[0]].used if one == kind]
            by_kind[kind], problems = numbers.unique(Reason.DUPLICATE_CONTOUR, study_id, of_kind, kind)
            findings += problems
        names = spellings(study_id, originals[study_id], contour_ids[study_id])
        questions.append(Question(study_id, names, frozenset(study_ids), _series(images, files.images), by_kind))
    findings += _other_contours(files.contours, study_ids)
    studies = []
    with progress(sum(len(question.series) for question in questions), "series") as bar:
        for question, answer in zip(questions, engine.map(choose, questions), strict=True):
            bar.update(len(question.series))
            findings += answer.findings
            if answer.series is None:
                continue
            study_id = question.study_id
            by_number, problems = numbers.unique(Reason.DUPLICATE_IMAGE, study_id, answer.series.images)
            findings += problems
            patient_ids = question.names | ({answer.patient_id} if answer.patient_id else set())
            studies.append(Study(study_id, contour_ids[study_id], by_number, question.contours, frozenset(patient_ids)))
    return studies, [*findings, *unused.findings(), *source.findings]


def _sorted_out(paths: Iterable[str], known: Collection[str], unused: Unused) -> _Files:
    """Images and contours by the study's folder.

    Args:
        paths: of all files.
        known: ids in their canonical spelling.
        unused: gets the other files.
    """
    images: dict[str, list[tuple[int, int, str]]] = collections.defaultdict(list)
    contours: dict[str, _Contours] = collections.defaultdict(lambda: _Contours([], []))
    for path in paths:
        *folders, name = path.split("/")
        if (at := _last(folders, lambda folder: bool(_CONTOUR_FOLDERS.fullmatch(folder)))) > 0:
            place, kind, below = "/".join(folders[:at]), folders[at].lower(), folders[at + 1 :]
            match = _CONTOUR_NAME.fullmatch(name)
            if match and kind == "contours-manual" and [folder.lower() for folder in below] == [_EXPERT]:
                contours[place].used.append((match[2].lower(), int(match[1]), path))
            elif below and (other := _OTHER_CONTOUR.fullmatch(name)):
                contours[place].others.append(_what(kind, other[1]))
            else:
                unused.add(path)
            continue
        at = _last(folders, lambda folder: _is_study(folder, known))
        place = "/".join(folders[: at + 1])
        if at >= 0 and (match := _IMAGE_NAME.fullmatch(name)):
            images[place].append((int(match[1]), int(match[2]), path))
        else:
            # One row for a study, which may have many folders.
            unused.add(f"{place}/{name}" if at >= 0 else path)
    return _Files(images, contours)


def _last(folders: Sequence[str], fits: Callable[[str], bool]) -> int:
    """The position of the last folder that fits, -1 if none does."""
    return max((at for at, folder in enumerate(folders) if fits(folder)), default=-1)


def _is_study(folder: str, known: Collection[str]) -> bool:
    name = canonical(folder)
    return name in known or bool(looks_like_an_id(name))


def _what(kind: str, contour: str) -> str:
    """What a contour that is not used is of."""
    if contour.lower().startswith("p"):
        return "of papillary muscles"
    return "of algorithms" if kind == "contours-auto" else "of other experts"


_ELSEWHERE = (
    "if they are elsewhere, put all archives in one folder, or pass each place as --data_dir "
    "(make records DATA=… FLAGS=--data_dir=OTHER)"
)


def _check_complete(source: Listing, files: _Files) -> None:
    """Raises FatalInputError where there are no images or no contours at all."""
    unlisted = "".join(f"; {finding.path} {finding.detail}" for finding in source.findings[:1])
    unlisted += unread_archives(source)
    if not any(one.used for one in files.contours.values()):
        expected = "SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt"
        raise FatalInputError(source.name, f"contains no contour like {expected}; {_ELSEWHERE}{unlisted}")
    if not files.images:
        expected = "SCD0000101/CINESAX_300/IM-0003-0048.dcm"
        raise FatalInputError(source.name, f"contains no image like {expected}; {_ELSEWHERE}{unlisted}")


def _by_study(places: Iterable[str], study_ids: Mapping[str, str]) -> dict[str, list[str]]:
    """The folders of each study, sorted."""
    by_study: dict[str, list[str]] = collections.defaultdict(list)
    for place in sorted(places):
        if study_id := study_ids.get(canonical(_name(place))):
            by_study[study_id].append(place)
    return by_study


def _unlinked(places: Iterable[str], study_ids: Mapping[str, str]) -> list[Finding]:
    """A finding for each folder of a study that is not known."""
    detail = f"neither the published names of the patients nor {CSV_NAME} contain its id"
    return [
        Finding(Reason.UNLINKED_STUDY, "study", place, detail, _name(place))
        for place in sorted(places)
        if canonical(_name(place)) not in study_ids
    ]


def _missing(study_id: str, original: str, images: Sequence[str], contours: Sequence[str]) -> Finding:
    """The finding for a study that has only images or only contours."""
    if contours:
        detail = f"there are contours, but no images: IM-0003-0048.dcm or similar in a folder {study_id} or {original}"
        return Finding(Reason.MISSING_STUDY, "study", contours[0], detail, study_id)
    detail = f"there are images, but no contours: no folder {original} contains contours-manual/IRCCI-expert"
    return Finding(Reason.MISSING_STUDY, "study", images[0], detail, study_id, level=Level.WARNING)


def _series(places: Sequence[str], images: Mapping[str, Sequence[tuple[int, int, str]]]) -> tuple[Series, ...]:
    """The series in the folders of a study."""
    groups: dict[tuple[str, str, int], list[tuple[int, str]]] = collections.defaultdict(list)
    for place in places:
        for prefix, number, path in images[place]:
            groups[place, path.rpartition("/")[0], prefix].append((number, path))
    return tuple(Series(*key, tuple(sorted(members))) for key, members in sorted(groups.items()))


def _other_contours(contours: Mapping[str, _Contours], study_ids: Mapping[str, str]) -> list[Finding]:
    """One finding for each study: how many contours are not used because of what they are."""
    findings = []
    for name, places in sorted(_grouped(contours).items()):
        counts = collections.Counter(what for place in places for what in contours[place].others)
        if counts:
            listed = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            detail = f"contours that are not used: {listed}"
            findings.append(Finding(Reason.OTHER_CONTOURS, "study", places[0], detail, study_ids.get(name, "")))
    return findings


def _grouped(places: Iterable[str]) -> dict[str, list[str]]:
    """The folders of each name, in its canonical spelling."""
    grouped: dict[str, list[str]] = collections.defaultdict(list)
    for place in sorted(places):
        grouped[canonical(_name(place))].append(place)
    return grouped


def _name(path: str) -> str:
    return path.rpartition("/")[2]
