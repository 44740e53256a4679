"""data_dir → studies: which files there are, and which belong together by ``link.csv``."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Literal

from preprocess.findings import DATA_DIR, FatalInputError, Finding, Reason
from preprocess.inputs.sources import Source
from preprocess.inputs.tables import read_rows
from preprocess.inputs.unused import Unused, some
from preprocess.model import ContourKind, Study

_IMAGE_NAME = re.compile(r"(\d{1,9})\.dcm", re.IGNORECASE | re.ASCII)
_CONTOUR_NAME = re.compile(r"IM-\d+-(\d{1,9})-([io])contour-manual\.txt", re.IGNORECASE | re.ASCII)
_CONTOUR_FOLDERS: dict[str, ContourKind] = {"i-contours": "i", "o-contours": "o"}

_LINK_COLUMNS = ("patient_id", "original_id")

# 100,000 studies.
_MAX_LINK_BYTES = 1 << 22


def discover(source: Source) -> tuple[list[Study], list[Finding]]:
    """Finds ``dicoms``, ``contourfiles`` and ``link.csv`` at any depth, and the studies they make.

    Returns:
        The studies whose two folders are both there, sorted by id, and what was found odd or wrong.

    Raises:
        FatalInputError: one of the three is not there, or is there twice, or ``link.csv`` has not its columns.
    """
    unused = Unused()
    kept = unused.without_junk(source.paths)
    dicoms = _the_only(source, "folder", "dicoms", {_up_to(path, "dicoms") for path in kept})
    contourfiles = _the_only(source, "folder", "contourfiles", {_up_to(path, "contourfiles") for path in kept})
    # A list: an archive may hold a name twice.
    link = _the_only(source, "file", "link.csv", [path for path in kept if path.rpartition("/")[2] == "link.csv"])
    image_folders = _folders_below(kept, dicoms, unused)
    contour_folders = _folders_below(kept, contourfiles, unused)
    # With the folders that hold them, which may be empty but for them.
    unlisted = {
        os.fspath(folder)
        for path in _unreadable_folders(source)
        for folder in (pathlib.PurePosixPath(path), *pathlib.PurePosixPath(path).parents)
    }

    rows, findings = _read_link(source, link)
    studies = []
    for study_id, contour_id in rows:
        images_root, contours_root = f"{dicoms}/{study_id}", f"{contourfiles}/{contour_id}"
        absent = [images_root] * (study_id not in image_folders) + [contours_root] * (contour_id not in contour_folders)
        if absent:
            missing = [path for path in absent if path not in unlisted]
            if missing:
                detail = f"{link} names it, but there is no {' and no '.join(missing)}"
                findings.append(Finding(Reason.MISSING_STUDY, "study", missing[0], detail, study_id))
            continue
        images, problems = _images(study_id, images_root, image_folders[study_id], unused)
        findings += problems
        contours, problems = _contours(study_id, contours_root, contour_folders[contour_id], unused)
        findings += problems
        studies.append(Study(study_id, contour_id, images, contours))
    named = {study_id for study_id, _ in rows}, {contour_id for _, contour_id in rows}
    for root, folders, ids in ((dicoms, image_folders, named[0]), (contourfiles, contour_folders, named[1])):
        for folder in sorted(folders.keys() - ids):
            detail = f"no row of {link} names this folder"
            findings.append(Finding(Reason.UNLINKED_STUDY, "study", f"{root}/{folder}", detail, folder))
    return sorted(studies, key=lambda study: study.study_id), [*findings, *unused.findings(), *source.findings]


def _unreadable_folders(source: Source) -> list[str]:
    return [finding.path for finding in source.findings if finding.reason == "unreadable_folder"]


def _up_to(path: str, folder: str) -> str | None:
    """The path's part up to the first folder of that name, None if it lies in none."""
    parts = path.split("/")[:-1]
    return "/".join(parts[: parts.index(folder) + 1]) if folder in parts else None


def _the_only(source: Source, kind: Literal["file", "folder"], name: str, found: Iterable[str | None]) -> str:
    there = sorted(path for path in found if path is not None)
    if not there:
        unlisted = [f"; {path} cannot be listed" for path in _unreadable_folders(source)[:1]]
        raise FatalInputError(
            source.name,
            f"holds no {kind} named {name}; dicoms/, contourfiles/ and link.csv are expected, at any depth of "
            f"{DATA_DIR}{''.join(unlisted)}",
        )
    if len(there) > 1:
        raise FatalInputError(
            source.name, f"holds {len(there)} {kind}s named {name}: {some(there)}; pass the folder of one as {DATA_DIR}"
        )
    return there[0]


def _folders_below(paths: Iterable[str], root: str, unused: Unused) -> dict[str, list[str]]:
    """The files of each folder directly below ``root``."""
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for path in paths:
        if path.startswith(f"{root}/"):
            folder, _, rest = path[len(root) + 1 :].partition("/")
            if rest:
                folders[folder].append(path)
            else:
                unused.add(path)
    return dict(folders)


def _read_link(source: Source, link: str) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Reads ``(study_id, contour_id)`` of each usable row."""
    try:
        with source.open(link) as file:
            content = file.read(_MAX_LINK_BYTES + 1)
    except OSError as error:
        raise FatalInputError(link, f"cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_LINK_BYTES:
        raise FatalInputError(link, f"over {_MAX_LINK_BYTES} bytes, a row of two ids per study expected")
    lines = read_rows(content, link, _LINK_COLUMNS)
    if not lines:
        raise FatalInputError(
            link, f"holds no row below the first line; add one of {','.join(_LINK_COLUMNS)} for each study"
        )
    rows: dict[tuple[str, str], None] = {}
    findings = []
    distinct = dict.fromkeys(ids for _, ids in lines)
    uses = [collections.Counter(ids[column] for ids in distinct) for column in (0, 1)]
    for line, (study_id, contour_id) in lines:
        if not (_names_a_folder(study_id) and _names_a_folder(contour_id)):
            problem = "an id that names no folder directly below dicoms/ or contourfiles/"
        elif (study_id, contour_id) in rows:
            problem = "the same row a second time"
        elif uses[0][study_id] > 1 or uses[1][contour_id] > 1:
            problem = "an id that other rows link otherwise"
        else:
            rows[study_id, contour_id] = None
            continue
        findings.append(Finding(Reason.BAD_LINK, "link", link, f"line {line}: {problem}"))
    return list(rows), findings


def _names_a_folder(name: str) -> bool:
    """Whether a name, put below a folder, stays directly below it on every system."""
    return bool(name) and name not in (".", "..") and not re.search(r"[/\\:\x00-\x1f\x7f]", name)


def _images(study_id: str, root: str, paths: Iterable[str], unused: Unused) -> tuple[dict[int, str], list[Finding]]:
    numbered = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        match = _IMAGE_NAME.fullmatch(name)
        if match and folder == root:
            numbered.append((int(match[1]), path))
        else:
            unused.add(path)
    return _unique(Reason.DUPLICATE_IMAGE, "image", study_id, numbered)


def _contours(
    study_id: str, root: str, paths: Iterable[str], unused: Unused
) -> tuple[dict[ContourKind, dict[int, str]], list[Finding]]:
    numbered: dict[ContourKind, list[tuple[int, str]]] = {"i": [], "o": []}
    findings = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        kind = _CONTOUR_FOLDERS.get(folder[len(root) + 1 :])
        match = _CONTOUR_NAME.fullmatch(name)
        if kind and match and match[2].lower() == kind:
            numbered[kind].append((int(match[1]), path))
        elif path[len(root) + 1 :] in _CONTOUR_FOLDERS:
            detail = "is neither a folder nor a link to one; put the contours there"
            findings.append(Finding(Reason.UNREADABLE_FOLDER, "file", path, detail, study_id))
        else:
            unused.add(path)
    contours: dict[ContourKind, dict[int, str]] = {}
    for kind, found in numbered.items():
        contours[kind], problems = _unique(Reason.DUPLICATE_CONTOUR, "contour", study_id, found)
        findings += problems
    return contours, findings


def _unique(
    reason: Reason, kind: str, study_id: str, numbered: Iterable[tuple[int, str]]
) -> tuple[dict[int, str], list[Finding]]:
    """Paths by number, without the numbers that two names share: nobody can tell which is meant."""
    paths: dict[int, list[str]] = collections.defaultdict(list)
    for number, path in numbered:
        paths[number].append(path)
    findings = [
        Finding(reason, kind, path, f"{len(same)} files have the number {number}", study_id, number)
        for number, same in sorted(paths.items())
        if len(same) > 1
        for path in same
    ]
    return {number: same[0] for number, same in sorted(paths.items()) if len(same) == 1}, findings
