"""DICOM images and RT Structure Sets, in any folders and under any names.

Files are what their headers say: UIDs sort images into studies and series, and say which image a contour is drawn on.
No UID, ROI name or Patient ID is written anywhere. A study gets its id from the folder of its images.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from preprocess.config import Config
from preprocess.dicom.elements import read_element, silent, stripped
from preprocess.dicom.part10 import read_elements
from preprocess.engines import Engine
from preprocess.findings import FatalInputError, Finding, InputError, Level, Reason, counted, some
from preprocess.inputs.sources import Listing, Source, opened
from preprocess.inputs.structure_sets import HEAD_BYTES, ContourName, Roi, StructureSet, is_dicom, is_structure_set
from preprocess.layouts import numbers
from preprocess.layouts.unused import Unused
from preprocess.model import KINDS, ContourKind, Study
from preprocess.terminal import progress

# Files that a worker reads at once: enough that handing them out costs nothing.
_CHUNK = 128

_USED = "a DICOM image or an RT Structure Set"

_LIKELY = re.compile(r"rs|rt|struct", re.IGNORECASE)
"""In the names of most RT Structure Sets."""

_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
)

_MOST_NAMES = 100

_WORDS: Mapping[ContourKind, str] = {"i": "inner", "o": "outer"}


class _Image(NamedTuple):
    """An image file. Patient ID is empty and numbers are None when absent."""

    path: str
    instance: str
    study: str
    series: str
    patient_id: str
    series_number: int | None
    instance_number: int | None


class _StructureFile(NamedTuple):
    """A structure set."""

    path: str
    rois: tuple[Roi, ...]


class _Other(NamedTuple):
    """A file that is neither; whether it is DICOM."""

    path: str
    dicom: bool


class _Drawn(NamedTuple):
    """A contour: its structure set, ROI Number, kind, and the SOP Instance UID of its image."""

    file: str
    roi_number: int
    kind: ContourKind
    instance: str


_File = _Image | _StructureFile | _Other | Finding


def recognize(source: Listing) -> str:
    """What of this layout is there; empty if nothing is. Only the first bytes of files are looked at."""
    # Those that are named like one first, so that mostly one file is opened.
    for path in sorted(source.paths, key=lambda path: (not _LIKELY.search(os.path.basename(path)), path)):
        try:
            with source.open(path) as file:
                if is_structure_set(file.read(HEAD_BYTES)):
                    return f"{path} is an RT Structure Set"
        except OSError:
            continue
    return ""


def discover(source: Listing, config: Config, engine: Engine) -> tuple[list[Study], list[Finding]]:
    """Reads the header of every file, and matches the contours of the chosen ROIs with the images they name.

    Args:
        source: the data set.
        config: the settings; ``rois`` chooses the ROIs.
        engine: reads the files.

    Returns:
        The studies with contours, sorted by id, and what is odd or wrong.

    Raises:
        FatalInputError: there is no RT Structure Set, or ``rois`` does not choose an ROI for each kind of contour. The
            message lists the names of all ROIs.
    """
    unused = Unused(_USED, "")
    paths = unused.without_junk(source.paths)
    images: list[_Image] = []
    structures: list[_StructureFile] = []
    others: list[_Other] = []
    findings: list[Finding] = [*source.findings, *unused.findings()]
    for file in _files(paths, engine):
        match file:
            case _Image():
                images.append(file)
            case _StructureFile():
                structures.append(file)
            case _Other():
                others.append(file)
            case Finding():
                findings.append(file)
    _check_rois(source.name, config, structures, findings)
    drawn, problems = _drawn(config, structures, {image.instance for image in images})
    studies, more = _studies(images, drawn)
    return studies, [*findings, *_of_studies(problems, studies), *more, *_not_used(others)]


def _files(paths: Sequence[str], engine: Engine) -> Iterable[_File]:
    """What each file is, in the order of the paths."""
    chunks = [tuple(paths[first : first + _CHUNK]) for first in range(0, len(paths), _CHUNK)]
    with progress(len(paths), "files") as bar:
        for files in engine.map(_read_files, chunks):
            yield from files
            bar.update(len(files))


@silent()
def _read_files(source: Source, config: Config, paths: tuple[str, ...]) -> list[_File]:
    """What each of some files is. A function of a module, because an engine calls it in another process."""
    return [_read_file(source, config, path) for path in paths]


def _read_file(source: Source, config: Config, path: str) -> _File:
    try:
        with opened(source, path, Reason.UNREADABLE_IMAGE) as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if is_structure_set(head):
                return _StructureFile(path, StructureSet.read(file).rois)
            return (_image(path, file, config) if is_dicom(head) else None) or _Other(path, is_dicom(head))
    except InputError as error:
        kind = "contour" if error.reason in (Reason.UNREADABLE_CONTOUR, Reason.OVERSIZED_CONTOUR) else "image"
        return Finding(error.reason, kind, path, error.detail, remedy=error.remedy)


def _image(path: str, file: BinaryIO, config: Config) -> _Image | None:
    """Reads where an image belongs; None if the file has no pixels, or does not say."""
    dataset, pixels, _ = read_elements(file, _KEYWORDS, config.max_image_pixels)
    instance, study, series = (
        read_element(dataset, keyword, str) for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    if pixels is None or not instance or not study or not series:
        return None
    return _Image(
        path=path,
        instance=instance,
        study=study,
        series=series,
        patient_id=read_element(dataset, "PatientID", stripped) or "",
        series_number=read_element(dataset, "SeriesNumber", int),
        instance_number=read_element(dataset, "InstanceNumber", int),
    )


def _check_rois(name: str, config: Config, structures: Sequence[_StructureFile], findings: Sequence[Finding]) -> None:
    """Raises FatalInputError unless ``rois`` chooses ROIs for each kind of contour that is written."""
    if not structures:
        unread = [f"; {finding.path}: {finding.detail}" for finding in findings if finding.kind == "contour"][:1]
        raise FatalInputError(name, f"contains no RT Structure Set that can be read{''.join(unread)}")
    # Before the names are compared: white space and upper and lower case do not count.
    names = collections.Counter(name for file in structures for name in {roi.name.strip() for roi in file.rois})
    patterns = config.rois
    missing = [kind for kind in KINDS if kind in config.contours and kind not in patterns]
    unmatched = [kind for kind, pattern in patterns.items() if not any(_matches(name, pattern) for name in names)]
    if not missing and not unmatched:
        return
    if unmatched:
        problem = f"no ROI is named {' or '.join(repr(patterns[kind]) for kind in unmatched)}, as --roi says"
    else:
        problem = f"--roi does not name the {' and '.join(_WORDS[kind] for kind in missing)} contours"
    listed = [f"  {roi_name!r} ({counted(count, 'structure set')})" for roi_name, count in sorted(names.items())]
    if len(listed) > _MOST_NAMES:
        listed[_MOST_NAMES:] = [f"  … and {len(listed) - _MOST_NAMES} more"]
    example = ",".join(f'{_WORDS[kind]}="NAME"' for kind in KINDS if kind in {*config.contours, *patterns})
    advice = f"pass --roi={example} with names from this list (* and ? stand for any text and any letter):"
    raise FatalInputError(name, "\n".join([f"{problem}; {advice}", *(listed or ["  (there is no ROI)"])]))


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.strip().casefold(), pattern.strip().casefold())


def _drawn(
    config: Config, structures: Iterable[_StructureFile], instances: set[str]
) -> tuple[list[_Drawn], list[Finding]]:
    """The contours of the chosen ROIs on images that are there, and a finding for each ROI that has others."""
    drawn, findings = [], []
    for file, kind in itertools.product(structures, config.rois):
        for roi in file.rois:
            if not _matches(roi.name, config.rois[kind]):
                continue
            drawn += [_Drawn(file.path, roi.number, kind, uid) for uid in roi.images if uid in instances]
            findings += _roi_findings(file.path, kind, roi, sum(uid not in instances for uid in roi.images))
    return drawn, findings


def _roi_findings(path: str, kind: ContourKind, roi: Roi, absent: int) -> list[Finding]:
    """What is wrong with one ROI. It is named by its number."""
    of_roi = f"of ROI {roi.number} ({_WORDS[kind]})"
    findings = []
    if absent:
        detail = (
            f"{counted(absent, 'image')} with a contour {of_roi} {'is' if absent == 1 else 'are'} not in the data set"
        )
        findings.append(Finding(Reason.NO_IMAGE, "contour", path, detail, contour=kind))
    problems = {
        "not say on which image they are drawn (Contour Image Sequence (3006,0016))": roi.unreferenced,
        "not go around a region: they are points or open lines": roi.lines,
    }
    for problem, count in problems.items():
        if count:
            detail = f"{count} of {counted(roi.contours, 'contour')} {of_roi} do {problem}"
            findings.append(Finding(Reason.UNUSABLE_ROI, "contour", path, detail, contour=kind))
    if not roi.contours:
        detail = f"ROI {roi.number} ({_WORDS[kind]}) has no contours"
        findings.append(Finding(Reason.UNUSABLE_ROI, "contour", path, detail, level=Level.WARNING, contour=kind))
    return findings


def _of_studies(findings: Iterable[Finding], studies: Iterable[Study]) -> list[Finding]:
    """Findings about structure sets, with the id of the study whose contours they have, if it is only one."""
    ids: dict[str, set[str]] = collections.defaultdict(set)
    for study in studies:
        for path in itertools.chain.from_iterable(paths.values() for paths in study.contours.values()):
            if name := ContourName.parse(path):
                ids[name.file].add(study.study_id)
    return [
        dataclasses.replace(finding, study_id=min(ids[finding.path])) if len(ids[finding.path]) == 1 else finding
        for finding in findings
    ]


def _studies(images: Sequence[_Image], drawn: Sequence[_Drawn]) -> tuple[list[Study], list[Finding]]:
    """The studies on whose images there are contours."""
    # A SOP Instance UID should be that of one file; the first by path speaks for all.
    files: dict[str, list[_Image]] = collections.defaultdict(list)
    for image in images:
        files[image.instance].append(image)
    members: dict[str, list[_Image]] = collections.defaultdict(list)
    for same in files.values():
        members[same[0].study].append(same[0])
    contours: dict[str, list[_Drawn]] = collections.defaultdict(list)
    for contour in drawn:
        contours[files[contour.instance][0].study].append(contour)
    ids = _study_ids({uid: [image.path for image in of_study] for uid, of_study in members.items()})
    studies, findings = [], []
    patients: dict[str, list[str]] = collections.defaultdict(list)
    for uid, of_study in members.items():
        series = {files[contour.instance][0].series for contour in contours[uid]}
        used = [image for image in of_study if image.series in series]
        if used:
            study, problems = _study(ids[uid], used, files, contours[uid])
            studies.append(study)
            findings += problems
            for patient_id in {image.patient_id for image in used} - {""}:
                patients[patient_id].append(study.study_id)
        if rest := len(of_study) - len(used):
            whole = "other series" if used else "a study"
            detail = f"{counted(rest, 'image')} of {whole} not used: no chosen ROI has a contour there"
            findings.append(Finding(Reason.UNUSED_SERIES, "study", _folder(of_study), detail, ids[uid]))
    for same_patient in patients.values():
        if len(same_patient) > 1:
            first, *_ = same_patient = sorted(same_patient)
            detail = f"images of the studies {some(same_patient, 10)} have the same Patient ID (0010,0020)"
            findings.append(Finding(Reason.SAME_PATIENT, "study", first, detail, first))
    return sorted(studies, key=lambda study: study.study_id), findings


def _study(
    study_id: str, used: Sequence[_Image], files: Mapping[str, Sequence[_Image]], drawn: Iterable[_Drawn]
) -> tuple[Study, list[Finding]]:
    """One study, from the images of its used series and the contours on them."""
    number_of = _numbers(used)
    images, findings = numbers.unique(
        Reason.DUPLICATE_IMAGE,
        study_id,
        [(number_of[image.instance], file.path) for image in used for file in files[image.instance]],
    )
    contours: dict[ContourKind, dict[int, str]] = {}
    contour_files = set()
    numbered: dict[ContourKind, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    for file, roi_number, kind, instance in drawn:
        number = number_of[instance]
        numbered[kind].append((number, ContourName(file, roi_number).path(number)))
        contour_files.add(file)
    for kind in KINDS:
        contours[kind], problems = numbers.unique(Reason.DUPLICATE_CONTOUR, study_id, numbered[kind], kind)
        findings += problems
    return Study(study_id, _contour_id(contour_files) or study_id, images, contours, None), findings


def _numbers(used: Sequence[_Image]) -> dict[str, int]:
    """The number of each image, by SOP Instance UID: its Instance Number, if all have different ones.

    Otherwise they are counted from 1 by Series Number, Instance Number and path: stacks of slices often have a series
    for each slice, and numbers start again in each.
    """
    stated = [image.instance_number for image in used]
    if len(set(stated)) == len(stated) and all(number is not None and 0 <= number < 10**9 for number in stated):
        return {image.instance: image.instance_number or 0 for image in used}

    def order(image: _Image) -> tuple[bool, int, bool, int, str]:
        return (
            image.series_number is None, image.series_number or 0,
            image.instance_number is None, image.instance_number or 0, image.path,
        )  # fmt: skip

    return {image.instance: number for number, image in enumerate(sorted(used, key=order), start=1)}


def _study_ids(paths: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """An id for each study: the folder that contains all of its images, with ``_`` for ``/``.

    Studies of one folder, and those of the top folder, are counted in the order of their first path.
    """
    names = {uid: _common(of_study).replace("/", "_") for uid, of_study in paths.items()}
    counts = collections.Counter(names.values())
    taken = {name for name, count in counts.items() if name and count == 1}
    ids = {}
    for uid in sorted(names, key=lambda uid: min(paths[uid])):
        ids[uid] = names[uid]
        if names[uid] not in taken or counts[names[uid]] > 1:
            free = (f"{names[uid] or 'study'}-{number}" for number in itertools.count(1))
            ids[uid] = next(name for name in free if name not in taken)
            taken.add(ids[uid])
    return ids


def _contour_id(files: Iterable[str]) -> str:
    """The path of a study's structure set without its extension, or the folder of several, with ``_`` for ``/``."""
    first, *others = sorted(files)
    return (_common([first, *others]) if others else os.path.splitext(first)[0]).replace("/", "_")


def _folder(images: Iterable[_Image]) -> str:
    return _common([image.path for image in images]) or "."


def _common(paths: Sequence[str]) -> str:
    """The deepest folder that contains all of some paths; empty for the top folder."""
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""


def _not_used(others: Iterable[_Other]) -> list[Finding]:
    """A finding for each folder with other files, and one for each with other DICOM files."""
    counts = collections.Counter((os.path.dirname(file.path) or ".", file.dicom) for file in others)
    details = {
        False: "skipped: not DICOM",
        True: f"skipped: DICOM, but not {_USED} with UIDs of study, series and instance",
    }
    return [
        Finding(Reason.JUNK, "file", folder, f"{counted(count, 'file')} {details[dicom]}")
        for (folder, dicom), count in sorted(counts.items())
    ]
