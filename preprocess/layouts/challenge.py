"""The layout of the challenge data: ``link.csv`` says which folder of images belongs to which folder of contours.

The number in a contour's name is that of its image. The authors of the contours state that (0, 0) is the corner of the
top-left pixel (docs/ANSWERS.md).
"""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal, NamedTuple

from preprocess.findings import DATA_DIR, FatalInputError, Finding, Reason, some
from preprocess.inputs.sources import Listing, read_table
from preprocess.layouts import numbers
from preprocess.layouts.unused import Unused
from preprocess.model import KINDS, ContourKind, Study

_IMAGE_NAME = re.compile(r"(\d{1,9})\.dcm", re.IGNORECASE | re.ASCII)
_CONTOUR_FOLDERS = ("i-contours", "o-contours")
_CONTOUR_NAME = re.compile(r"(?-i:([io])-contours)/IM-\d+-(\d{1,9})-\1contour-manual\.txt", re.IGNORECASE | re.ASCII)
# A folder directly below another, on every system.
_FOLDER_NAME = re.compile(r"(?!\.\.?\Z)[^/\\:\x00-\x1f\x7f]+")

_LINK_COLUMNS = ("patient_id", "original_id")

_USED = "images are dicoms/STUDY/48.dcm, contours contourfiles/STUDY/i-contours/IM-0001-0048-icontour-manual.txt"

# Enough for 100,000 studies.
_MAX_LINK_BYTES = 1 << 22


class _Root(NamedTuple):
    """``dicoms`` or ``contourfiles``, and the files in each folder directly below it."""

    path: str
    folders: Mapping[str, Sequence[str]]


def recognize(source: Listing) -> str:
    """What of this layout is there; empty if nothing is."""
    folders = {folder for path in source.paths for folder in path.split("/")[:-1]}
    there = [f"{name}/" for name in ("dicoms", "contourfiles") if name in folders]
    if any(path.rpartition("/")[2] == "link.csv" for path in source.paths):
        there.append("link.csv")
    return ", ".join(there)


def discover(source: Listing) -> tuple[list[Study], list[Finding]]:
    """Finds ``dicoms``, ``contourfiles`` and ``link.csv`` at any depth, and the studies they make.

    Returns:
        The studies whose two folders exist, sorted by id, and what is odd or wrong.

    Raises:
        FatalInputError: one of the three is missing or exists twice, or ``link.csv`` lacks a column.
    """
    unused = Unused("an image, a contour or link.csv", _USED)
    paths = unused.without_junk(source.paths)
    dicoms, contourfiles = (_root(source, name, paths, unused) for name in ("dicoms", "contourfiles"))
    # A list: an archive may hold a name twice.
    link = _the_only(source, "file", "link.csv", [path for path in paths if path.rpartition("/")[2] == "link.csv"])
    rows, findings = _read_link(source, link)
    unlisted = _unlisted(source)
    studies = []
    for study_id, contour_id in rows:
        wanted = ((dicoms, study_id), (contourfiles, contour_id))
        absent = [f"{root.path}/{folder}" for root, folder in wanted if folder not in root.folders]
        # A folder that cannot be listed, or contains one, has a row of its own.
        if missing := [path for path in absent if path not in unlisted]:
            detail = f"{link} names the study, but there is no {' and no '.join(missing)}"
            findings.append(Finding(Reason.MISSING_STUDY, "study", missing[0], detail, study_id))
        if absent:
            continue
        images, problems = _images(study_id, dicoms, unused)
        findings += problems
        contours, problems = _contours(study_id, contour_id, contourfiles, unused)
        findings += problems
        studies.append(Study(study_id, contour_id, images, contours, frozenset([study_id])))
    findings += _unlinked(dicoms, {study_id for study_id, _ in rows}, link)
    findings += _unlinked(contourfiles, {contour_id for _, contour_id in rows}, link)
    return sorted(studies, key=lambda study: study.study_id), [*findings, *unused.findings(), *source.findings]


def _root(source: Listing, name: str, paths: Sequence[str], unused: Unused) -> _Root:
    """The only folder with a name; a file directly in it is not used."""
    root = _the_only(source, "folder", name, {_up_to(path, name) for path in paths})
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for path in paths:
        if path.startswith(f"{root}/"):
            folder, _, rest = path[len(root) + 1 :].partition("/")
            if rest:
                folders[folder].append(path)
            else:
                unused.add(path)
    return _Root(root, dict(folders))


def _unlisted(source: Listing) -> set[str]:
    """The folders that cannot be listed, and the folders that contain them, which may contain nothing else."""
    return {
        os.fspath(folder)
        for path in _unreadable_folders(source)
        for folder in (pathlib.PurePosixPath(path), *pathlib.PurePosixPath(path).parents)
    }


def _unlinked(root: _Root, linked: Set[str], link: str) -> list[Finding]:
    """A finding for each folder that no row of ``link.csv`` names."""
    return [
        Finding(Reason.UNLINKED_STUDY, "study", f"{root.path}/{folder}", f"no row of {link} names this folder", folder)
        for folder in sorted(root.folders.keys() - linked)
    ]


def _unreadable_folders(source: Listing) -> list[str]:
    return [finding.path for finding in source.findings if finding.reason == "unreadable_folder"]


def _up_to(path: str, folder: str) -> str | None:
    """The part of a path up to the first folder with a name; None if it is in no such folder."""
    parts = path.split("/")[:-1]
    return "/".join(parts[: parts.index(folder) + 1]) if folder in parts else None


def _the_only(source: Listing, kind: Literal["file", "folder"], name: str, paths: Iterable[str | None]) -> str:
    there = sorted(path for path in paths if path is not None)
    if len(there) == 1:
        return there[0]
    if there:
        detail = f"{len(there)} {kind}s named {name}: {some(there)}; pass the folder that contains one as {DATA_DIR}"
    else:
        unlisted = "".join(f"; {path} cannot be listed" for path in _unreadable_folders(source)[:1])
        expected = f"dicoms/, contourfiles/ and link.csv are expected, at any depth of {DATA_DIR}"
        detail = f"no {kind} named {name}; {expected}{unlisted}"
    raise FatalInputError(source.name, f"contains {detail}")


def _read_link(source: Listing, link: str) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Reads ``(study_id, contour_id)`` of each usable row."""
    lines = read_table(source, link, _LINK_COLUMNS, _MAX_LINK_BYTES, "a row with two ids per study")
    if not lines:
        columns = ",".join(_LINK_COLUMNS)
        raise FatalInputError(link, f"contains no row below the first line; add a row {columns} for each study")
    rows: dict[tuple[str, str], None] = {}
    findings = []
    distinct = dict.fromkeys(ids for _, ids in lines)
    uses = [collections.Counter(ids[column] for ids in distinct) for column in (0, 1)]
    for line, (study_id, contour_id) in lines:
        if not (_FOLDER_NAME.fullmatch(study_id) and _FOLDER_NAME.fullmatch(contour_id)):
            problem = "an id cannot be the name of a folder directly below dicoms/ or contourfiles/"
        elif (study_id, contour_id) in rows:
            problem = "repeats an earlier row"
        elif uses[0][study_id] > 1 or uses[1][contour_id] > 1:
            problem = "another row links one of the ids differently"
        else:
            rows[study_id, contour_id] = None
            continue
        findings.append(Finding(Reason.BAD_LINK, "link", link, f"line {line}: {problem}"))
    return list(rows), findings


def _images(study_id: str, dicoms: _Root, unused: Unused) -> tuple[dict[int, str], list[Finding]]:
    """The images of a study, by number."""
    below = len(f"{dicoms.path}/{study_id}/")
    numbered = []
    for path in dicoms.folders[study_id]:
        if match := _IMAGE_NAME.fullmatch(path, below):
            numbered.append((int(match[1]), path))
        else:
            unused.add(path)
    return numbers.unique(Reason.DUPLICATE_IMAGE, study_id, numbered)


def _contours(
    study_id: str, contour_id: str, contourfiles: _Root, unused: Unused
) -> tuple[dict[ContourKind, dict[int, str]], list[Finding]]:
    """The contours of a study, by kind and number."""
    below = len(f"{contourfiles.path}/{contour_id}/")
    numbered: dict[str, list[tuple[int, str]]] = {"i": [], "o": []}
    findings = []
    for path in contourfiles.folders[contour_id]:
        if match := _CONTOUR_NAME.fullmatch(path, below):
            numbered[match[1]].append((int(match[2]), path))
        elif path[below:] in _CONTOUR_FOLDERS:
            detail = "is neither a folder nor a link to one; put the contours there"
            contour = path[below]
            findings.append(Finding(Reason.UNREADABLE_FOLDER, "file", path, detail, study_id, contour=contour))
        else:
            unused.add(path)
    contours: dict[ContourKind, dict[int, str]] = {}
    for kind in KINDS:
        contours[kind], problems = numbers.unique(Reason.DUPLICATE_CONTOUR, study_id, numbered[kind], kind)
        findings += problems
    return contours, findings
