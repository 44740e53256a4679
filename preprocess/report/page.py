"""The audit as one page.

Images and masks come from the records, as training sees them; contours come from the data directory. So a picture shows
whether the two belong together.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import html
import io
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import numpy.typing as npt

from pipeline import DatasetInfo, RecordsError, iterate_batches, schema
from preprocess.dicom import reader
from preprocess.findings import FatalInputError, Level, Reason, about, some
from preprocess.geometry import Polygon, polygons
from preprocess.geometry.grid import Grid
from preprocess.inputs import challenge
from preprocess.inputs.contours import read_contour
from preprocess.inputs.sources import Listing, Source, open_source, opened
from preprocess.model import ContourKind
from preprocess.output import publication
from preprocess.quality.registration import Registration
from preprocess.report import figures

Row = Mapping[str, str]

_MAX_ROWS = 200
"""Rows of the audit that the page shows of each level and reason."""

_SEVERITY = tuple(Level)

_META = re.compile(f'<meta name="generator" content="{schema.FORMAT_NAME}">\n<meta name="studies" content="([^"]*)">')
"""Generator and studies in the head of a report, as report.html writes them."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A pair as the report shows it: its row of ``pairs.csv``, image and mask ``(H, W)``, and contour."""

    row: Row
    pixels: npt.NDArray[np.generic]
    mask: npt.NDArray[np.bool_]
    polygon: Polygon

    @property
    def anchor(self) -> str:
        """Id of its picture in the page."""
        return _anchor(self.row["study_id"], self.row["instance_number"])


def write_report(data_dir: pathlib.Path, records_dir: pathlib.Path, output_dir: pathlib.Path) -> pathlib.Path:
    """Writes ``index.html``, which needs nothing beside it, and returns its path.

    Raises:
        FatalInputError: the data directory cannot be read, a contour is missing, or the page cannot be written or would
            replace one that is not a report, or that is a report of other studies.
        RecordsError: the records directory is missing, incomplete or damaged.
    """
    info = DatasetInfo.load(records_dir)
    path = output_dir / "index.html"
    _check_former(path, info.studies)
    source = open_source(data_dir)
    pair_rows = _table(records_dir / schema.PAIRS_FILE)
    study_rows = _table(records_dir / schema.STUDIES_FILE)
    audit_rows = sorted(_table(records_dir / schema.AUDIT_FILE), key=lambda row: _SEVERITY.index(row["level"]))
    incomplete = {row["study_id"]: row["detail"] for row in audit_rows if row["reason"] == "incomplete_volumes"}
    studies = []
    anchors = set()
    naive: list[float] = []
    for shown in _by_study(source, records_dir, info, pair_rows):
        study_row = next(row for row in study_rows if row["study_id"] == shown[0].row["study_id"])
        studies.append(
            {**_study(study_row, shown, info.settings["contours"]), "incomplete": incomplete.get(study_row["study_id"])}
        )
        anchors |= {pair.anchor for pair in shown}
        naive += [_naive_difference(pair) for pair in shown]
    written = [row for row in pair_rows if row["written"] == "1"]
    page = _render(
        info=info,
        generator=schema.FORMAT_NAME,
        study_ids=json.dumps(info.studies),
        studies=studies,
        contour_name={"i": "inner", "o": "outer"}[info.settings["contours"]],
        left_out=len(pair_rows) - len(written),
        worst=audit_rows[0] if audit_rows else None,
        counts=collections.Counter(row["level"] for row in audit_rows),
        differences=figures.area_differences([float(row["area_difference_percent"]) for row in written], naive),
        mean_difference=np.mean([float(row["area_difference_percent"]) for row in written]),
        mean_naive=np.mean(naive),
        intensities=figures.intensities(_intensities(written)),
        audit=[
            {**row, "anchor": _anchor(row["study_id"], row["instance_number"])}
            for row in _first_of_each_kind(audit_rows)
        ],
        anchors=anchors,
        unlisted=_unlisted(audit_rows),
        reasons=_occurring(audit_rows),
    )
    _write(path, page)
    return path


def _render(**values: Any) -> str:
    """``report.html`` with its values filled in."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("preprocess.report", ""), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return str(environment.get_template("report.html").render(values))


def _write(path: pathlib.Path, page: str) -> None:
    """Writes a page beside its place, then moves it there in one step."""
    with publication.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as aside:
            pathlib.Path(aside, path.name).write_text(page, "utf-8")
            pathlib.Path(aside, path.name).replace(path)


def _check_former(path: pathlib.Path, studies: Sequence[str]) -> None:
    """Checks that the page at a path may be replaced: it is a report of the same studies, or of fewer."""
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
        detail = f"is a report of studies that the records do not hold ({some(lost)}); {publication.ELSEWHERE}"
        raise FatalInputError(str(path), detail)


def _table(path: pathlib.Path) -> list[Row]:
    try:
        return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    except OSError as error:
        detail = f"cannot be read ({error.strerror}); write the records again"
        raise RecordsError(f"{path}: {detail}") from error


def _first_of_each_kind(audit_rows: Iterable[Row]) -> Iterator[Row]:
    """At most ``_MAX_ROWS`` rows of each level and reason: a page of many thousands is not readable."""
    seen = collections.Counter[tuple[str, str]]()
    for row in audit_rows:
        kind = row["level"], row["reason"]
        seen[kind] += 1
        if seen[kind] <= _MAX_ROWS:
            yield row


class _Unlisted(NamedTuple):
    """How many rows of a level and reason the page leaves out."""

    level: str
    reason: str
    rows: int


def _unlisted(audit_rows: Iterable[Row]) -> list[_Unlisted]:
    """The rows that the page leaves out, by level and reason."""
    counts = collections.Counter((row["level"], row["reason"]) for row in audit_rows)
    return [
        _Unlisted(level, reason, count - _MAX_ROWS) for (level, reason), count in counts.items() if count > _MAX_ROWS
    ]


def _occurring(audit_rows: Iterable[Row]) -> list[Reason]:
    """The reasons that the rows have."""
    names = {row["reason"] for row in audit_rows}
    return [reason for reason in Reason if reason.value in names]


def _anchor(study_id: str, number: str) -> str:
    return f"pair-{study_id}-{number}"


def _by_study(
    source: Listing, records_dir: pathlib.Path, info: DatasetInfo, pair_rows: Sequence[Row]
) -> Iterator[list[Shown]]:
    """The written pairs of each study: in a split, records lie in the order of the table's rows."""
    studies = {study.study_id: study for study in challenge.discover(source)[0]}
    for name, split in info.splits.items():
        rows = iter([row for row in pair_rows if row["study_id"] in split.studies and row["written"] == "1"])
        shown: list[Shown] = []
        for images, masks in iterate_batches(records_dir, name, 1, shuffle=False, epochs=1, image_dtype=None):
            row = next(rows)
            if shown and shown[0].row["study_id"] != row["study_id"]:
                yield shown
                shown = []
            try:
                study, number = studies[row["study_id"]], int(row["instance_number"])
                # Not the table's path, in which bytes that are not UTF-8 are escaped.
                path, image_path = study.contours[info.settings["contours"]][number], study.images[number]
                with about(path), source.open(path) as file:
                    polygon = read_contour(file, info.settings["contour_origin"])
            except (KeyError, OSError) as error:
                detail = "is not there; pass the --data_dir that the records were made from"
                raise FatalInputError(row["contour_path"], detail) from error
            # The contour is shown where it was drawn: on the records' grid, from their outer corner.
            polygon = _grid(source, info, image_path).place(polygon)
            shown.append(Shown(row, images[0, ..., 0], masks[0, ..., 0], polygon))
        if shown:
            yield shown


def _grid(source: Source, info: DatasetInfo, path: str) -> Grid:
    """The pixels that the records have of an image."""
    size, limit = info.settings.get("image_size"), info.settings["max_image_pixels"]
    with opened(source, path, Reason.UNREADABLE_IMAGE) as file:
        header = reader.read_header(file, limit)
    return Grid.of(
        header.shape, header.pixel_spacing_mm, size and (size[0], size[1]), info.settings.get("pixel_spacing_mm"), limit
    )


def _study(row: Row, shown: Sequence[Shown], kind: ContourKind) -> dict[str, Any]:
    """What the page shows for a study; contrast is measured for inner contours only."""
    window = figures.window_around([pair.polygon for pair in shown])
    by_place = {(int(pair.row["slice_index"]), int(pair.row["phase_index"])): pair for pair in shown}
    phases = {"end-diastole": int(row["end_diastole_phase"]), "end-systole": int(row["end_systole_phase"])}
    slices = _from_base_to_apex(sorted({place[0] for place in by_place}), by_place)
    in_columns = {pair.anchor for place, pair in by_place.items() if place[1] in phases.values() and place[0] >= 0}
    registration = Registration()
    if kind == "i":
        for pair in shown:
            registration.add(pair.pixels, pair.mask)
    pictures = {pair.anchor: figures.pair_picture(pair.pixels, pair.mask, pair.polygon, window) for pair in shown}
    pixel_mm2 = float(row["row_spacing_mm"] or "nan") * float(row["column_spacing_mm"] or "nan")
    areas = {
        f"{name} (phase {phase})": {
            index: float(by_place[index, phase].row["polygon_area_px"]) * pixel_mm2
            for index in slices
            if (index, phase) in by_place
        }
        for name, phase in phases.items()
        if phase >= 0
    }
    peak = registration.peak()
    return {
        "row": row,
        "phases": phases,
        "sheet": [
            (index, [by_place.get((index, phase)) for phase in phases.values()]) for index in slices if index >= 0
        ],
        "others": [pair for pair in shown if pair.anchor not in in_columns],
        "pictures": pictures,
        "areas": figures.areas_by_slice(areas) if any(areas.values()) and not math.isnan(pixel_mm2) else "",
        "registration": "" if math.isnan(peak.contrast) else figures.registration_map(registration.curve(), peak),
        "peak": peak,
    }


def _from_base_to_apex(slices: Sequence[int], by_place: Mapping[tuple[int, int], Shown]) -> list[int]:
    """Slices from the end of the stack where the cavity is larger."""

    def area(index: int) -> float:
        return max(float(pair.row["polygon_area_px"]) for place, pair in by_place.items() if place[0] == index)

    half = len(slices) // 2
    first, last = slices[:half], slices[-half:] if half else []
    return list(slices) if sum(map(area, first)) >= sum(map(area, last)) else list(slices)[::-1]


def _naive_difference(pair: Shown) -> float:
    """Area of a plain, rounded ``cv2.fillPoly`` against the contour's, in percent."""
    naive = np.zeros(pair.mask.shape, np.uint8)
    cv2.fillPoly(naive, [np.rint(pair.polygon).astype(np.int32)], 1)
    return 100 * (float(naive.sum()) / polygons.area(pair.polygon) - 1)


def _intensities(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Ring and inside means of each pair, by study."""
    values: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for row in rows:
        values[row["study_id"]].append((float(row["mean_ring"] or "nan"), float(row["mean_inside"])))
    return dict(values)
