"""The audit as pages: an index with the findings, and a page for each study."""

from __future__ import annotations

import collections
import dataclasses
import html
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline import DatasetInfo, RecordsError, schema
from pipeline.remote import Directory, open_directory
from preprocess import tables
from preprocess.config import Config
from preprocess.engines import Engine
from preprocess.engines.local import Local
from preprocess.findings import FatalInputError, Level, Reason, some
from preprocess.inputs import sources
from preprocess.inputs.sources import DataDir, Listing
from preprocess.layouts.discovery import discover
from preprocess.model import Study
from preprocess.output import publication
from preprocess.report import figures
from preprocess.report.study import NAMES, Row, StudyPage, Task, study_page
from preprocess.report.templates import render
from preprocess.urls import Place

_MAX_ROWS = 200
"""Rows of the audit that a page shows of each level and reason: a page of many thousands is not readable."""

_SEVERITY = tuple(Level)

_STUDIES = "studies"
"""The folder of the studies' pages, beside the index."""

_META = re.compile(f'<meta name="generator" content="{schema.FORMAT_NAME}">\n<meta name="studies" content="([^"]*)">')
"""Generator and studies in the head of an index, as the template writes them."""


def write_report(data_dir: DataDir, records_dir: Place, output_dir: pathlib.Path) -> pathlib.Path:
    """Writes ``index.html`` and ``studies/``, which need nothing else, and returns the path of the index.

    Raises:
        FatalInputError: the data directory cannot be read, a contour is missing, a record is damaged, or the report
            cannot be written or would replace something that is not a report, or a report of other studies.
        RecordsError: the records directory is missing or incomplete.
    """
    directory = open_directory(str(records_dir))
    info = DatasetInfo.load(directory)
    path = output_dir / "index.html"
    _check_former(path, info.studies)
    pair_rows, study_rows, audit_rows = (
        _table(directory, info.names.get(name, name))
        for name in (schema.PAIRS_FILE, schema.STUDIES_FILE, schema.AUDIT_FILE)
    )
    # Tables of an earlier version do not say what errors left out, nor whether volumes can be relied on.
    audit_rows = [{"contour": "", "left_out": str(int(row["level"] == Level.ERROR)), **row} for row in audit_rows]
    audit_rows.sort(key=lambda row: (_SEVERITY.index(row["level"]), row["left_out"] != "1"))
    study_rows = [{"volumes_complete": "", "volumes_reliable": "", **row} for row in study_rows]
    config = _config(data_dir, records_dir, info)
    with publication.writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=output_dir, prefix=".")
    with aside as name, sources.unchanged(data_dir) as source, Local(config) as engine:
        pages = pathlib.Path(name, _STUDIES)
        pages.mkdir()
        studies = {study.study_id: study for study in _discover(source, config, engine, info)}
        tasks = _tasks(studies, info, records_dir, pair_rows, study_rows, audit_rows)
        made = []
        for number, page in enumerate(engine.map(study_page, tasks), start=1):
            with publication.writing(output_dir):
                (pages / _file_name(number)).write_text(page.html, "utf-8")
            made.append(dataclasses.replace(page, html=""))
        index = _index(info, data_dir, tasks, made, pair_rows, audit_rows)
        with publication.writing(output_dir):
            pathlib.Path(name, path.name).write_text(index, "utf-8")
            shutil.rmtree(output_dir / _STUDIES, ignore_errors=True)
            pages.rename(output_dir / _STUDIES)
            pathlib.Path(name, path.name).replace(path)
    return path


def _discover(source: Listing, config: Config, engine: Engine, info: DatasetInfo) -> list[Study]:
    """The studies of the data set; raises FatalInputError if there are none."""
    try:
        return discover(source, config, engine)[0]
    except FatalInputError as error:
        what = f"the records hold {some(info.studies)}: pass the data that they were made from"
        raise FatalInputError(error.path, f"{error.detail}; {what}") from error


def _file_name(number: int) -> str:
    """The page of a study. Not its id, which may be no name of a file or a URL."""
    return f"{number:04d}.html"


def _config(data_dir: DataDir, records_dir: Place, info: DatasetInfo) -> Config:
    """The settings that the records were made with, as far as they matter here."""
    # Records of an earlier version do not name it.
    layout = info.settings.get("layout", "challenge")
    size = info.settings.get("image_size")
    return Config(
        data_dir,
        records_dir,
        layout=layout,
        roi=info.settings.get("roi", ""),
        contours=info.settings["contours"],
        contour_origin=info.settings["contour_origin"] if layout == "challenge" else None,
        image_size=size and (size[0], size[1]),
        pixel_spacing_mm=info.settings.get("pixel_spacing_mm"),
        max_image_pixels=info.settings["max_image_pixels"],
        workers=len(os.sched_getaffinity(0)),
    )


def _tasks(
    studies: dict[str, Study],
    info: DatasetInfo,
    records_dir: Place,
    pair_rows: Sequence[Row],
    study_rows: Sequence[Row],
    audit_rows: Sequence[Row],
) -> list[Task]:
    """What to make of each study: in a split, records lie in the order of the table's rows."""
    pairs, findings = _by_study(pair_rows), _by_study(audit_rows)
    split_of = {study_id: name for name, split in info.splits.items() for study_id in split.studies}
    position: collections.Counter[str] = collections.Counter()
    tasks = []
    for row in study_rows:
        study_id = row["study_id"]
        if study_id not in studies:
            detail = "is not there; pass the --data_dir that the records were made from"
            raise FatalInputError(study_id, detail)
        split = split_of.get(study_id, "")
        shown, more = _limited(findings[study_id])
        tasks.append(Task(studies[study_id], row, pairs[study_id], shown, more, records_dir, split, position[split]))
        position[split] += sum(pair["written"] == "1" for pair in pairs[study_id])
    return tasks


def _by_study(rows: Iterable[Row]) -> dict[str, list[Row]]:
    by_study: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        by_study[row["study_id"]].append(row)
    return by_study


def _limited(audit_rows: Iterable[Row]) -> tuple[list[Row], list[tuple[Row, int]]]:
    """At most ``_MAX_ROWS`` rows of each level and reason; one of the others, with how many there are."""
    shown = []
    seen: dict[tuple[str, str], list[Row]] = collections.defaultdict(list)
    for row in audit_rows:
        same = seen[row["level"], row["reason"]]
        same.append(row)
        if len(same) <= _MAX_ROWS:
            shown.append(row)
    return shown, [(same[0], len(same) - _MAX_ROWS) for same in seen.values() if len(same) > _MAX_ROWS]


def _index(
    info: DatasetInfo,
    data_dir: DataDir,
    tasks: Sequence[Task],
    pages: Sequence[StudyPage],
    pair_rows: Sequence[Row],
    audit_rows: Sequence[Row],
) -> str:
    """The page with all findings and all studies."""
    written = [row for row in pair_rows if row["written"] == "1"]
    differences = [float(row["area_difference_percent"]) for row in written]
    naive = [value for page in pages for value in page.naive]
    links = {
        task.row["study_id"]: (f"{_STUDIES}/{_file_name(number)}", page.pictured)
        for number, (task, page) in enumerate(zip(tasks, pages, strict=True), start=1)
    }
    shown, more = _limited(audit_rows)
    names = {row["reason"] for row in audit_rows}
    return render(
        "index.html",
        info=info,
        generator=schema.FORMAT_NAME,
        study_ids=json.dumps(info.studies),
        data_dir=os.fsencode(sources.name_of(data_dir)).decode("utf-8", "backslashreplace"),
        contour_name=" and ".join(name for kind, name in NAMES.items() if kind in info.settings["contours"]),
        counts=_counts(audit_rows),
        changed={
            task.row["study_id"]: links[task.row["study_id"]][0]
            for task, page in zip(tasks, pages, strict=True)
            if page.changed
        },
        findings=[{**row, "href": _href(row, links)} for row in shown],
        more=more,
        studies=[_study(task, links[task.row["study_id"]][0]) for task in tasks],
        reasons=[reason for reason in Reason if reason.value in names],
        differences=figures.area_differences(differences, naive, "blood pool" if info.mask_classes else "mask"),
        mean_difference=np.mean(differences),
        mean_naive=np.mean(naive),
        intensities=figures.intensities(_intensities(written)),
    )


def _counts(audit_rows: Sequence[Row]) -> dict[str, int]:
    """What the head of the index counts, as the closing lines of the job do: a pair that was left out counts once."""
    left_out = [(row["study_id"], row["instance_number"]) for row in audit_rows if row["left_out"] == "1"]
    pairs = {key for key in left_out if key[1]}
    errors = sum(row["level"] == Level.ERROR for row in audit_rows)
    return {
        "pairs": len(pairs),
        "others": sum(not number for _, number in left_out),
        "harmless": errors - len(left_out),
        "warnings": sum(row["level"] == Level.WARNING for row in audit_rows),
        "excluded": sum(row["reason"] == Reason.EXCLUDED.value for row in audit_rows),
    }


def _href(row: Row, links: dict[str, tuple[str, frozenset[int]]]) -> str:
    """Where a finding leads: to a picture, to its study's page, or nowhere."""
    page, pictured = links.get(row["study_id"], ("", frozenset()))
    number = row["instance_number"]
    return f"{page}#pair-{number}" if page and number and int(number) in pictured else page


def _study(task: Task, page: str) -> dict[str, Any]:
    """A study's row of the index."""
    levels = collections.Counter(row["level"] for row in task.findings)
    for row, count in task.more:
        levels[row["level"]] += count
    left_out = {row["instance_number"] for row in task.findings if row["left_out"] == "1"} - {""}
    return {"row": task.row, "page": page, "split": task.split, "levels": levels, "left_out": len(left_out)}


def _intensities(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Ring and inside means of each pair, by study."""
    return {
        study_id: [(float(row["mean_ring"] or "nan"), float(row["mean_inside"])) for row in pairs]
        for study_id, pairs in _by_study(rows).items()
    }


def _check_former(path: pathlib.Path, studies: Sequence[str]) -> None:
    """Checks that the report at a path may be replaced: it is ours, and of the same studies or of fewer."""
    pages = path.parent / _STUDIES
    if os.path.lexists(pages):
        with publication.writing(path.parent):
            names = os.listdir(pages)
        if not os.path.lexists(path) or not all(re.fullmatch(r"\d{4,}\.html", name) for name in names):
            detail = f"is not part of a report, so it is not replaced; {publication.ELSEWHERE}"
            raise FatalInputError(str(pages), detail)
    if not os.path.lexists(path):
        return
    with publication.writing(path.parent):
        head = _META.search(path.read_text("utf-8", "replace")) if path.is_file() and not path.is_symlink() else None
    if head is None:
        raise FatalInputError(
            str(path), f"is not a report of this version, so it is not replaced; {publication.ELSEWHERE}"
        )
    lost = sorted(set(json.loads(html.unescape(head[1]))).difference(studies))
    if lost:
        named = some(lost)
        detail = f"is a report of studies that the records do not hold ({named}); {publication.ELSEWHERE}"
        raise FatalInputError(str(path), detail)


def _table(directory: Directory, name: str) -> list[dict[str, str]]:
    try:
        with directory.open(name) as file:
            return tables.load(file.read())
    except OSError as error:
        raise RecordsError(
            f"{directory.location(name)}: cannot be read ({error.strerror}); write the records again"
        ) from error
