"""The page of one study: every pair with its contour and mask, and what to look at first.

Images and masks come from the records, as training sees them; contours come from the data directory. So a picture shows
whether the two belong together. Where a pair has no record, its image comes from the data directory, too.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline import RecordsError, iterate_batches
from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import FatalInputError, InputError, Level, Reason
from preprocess.geometry import Polygon, masks, polygons
from preprocess.inputs.contour_files import ContourFiles
from preprocess.inputs.sources import Source, opened
from preprocess.model import KINDS, ContourKind, ImageHeader, Study
from preprocess.quality.registration import Registration
from preprocess.report import figures, pictures
from preprocess.report.pictures import Picture, Window
from preprocess.report.templates import render, signed
from preprocess.urls import Place

Row = Mapping[str, str]

NAMES: Mapping[ContourKind, str] = {"i": "inner", "o": "outer"}

_FIRST = 60
"""Pictures in the row of what to look at first."""

_EXTREMES = (
    # column or difference of two columns, sign for which the largest is the worst, what a reader sees
    ("implausibility", 1, "most implausible"),
    ("contrast", -1, "lowest contrast"),
    ("area_difference_percent", 1, "area differs most from its contour's"),
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs for the page of a study.

    Attributes:
        study: its files.
        row: of ``studies.csv``.
        pairs: its rows of ``pairs.csv``.
        findings: its rows of ``audit.csv``, the worst first; those with a number get a picture.
        more: how many rows of each level and reason are left out of ``findings``.
        records_dir: records directory.
        split: of the study; empty if none of its pairs was written.
        first: position of its first record in the split.
    """

    study: Study
    row: Row
    pairs: Sequence[Row]
    findings: Sequence[Row]
    more: Sequence[tuple[Row, int]]
    records_dir: Place
    split: str
    first: int


@dataclasses.dataclass(frozen=True)
class StudyPage:
    """A study's page.

    Attributes:
        html: the page.
        pictured: the instance numbers that it has a picture of.
        naive: for each record, the area of a plain ``cv2.fillPoly`` against the contour's, in percent.
        changed: the instance numbers of records whose contour is not the one that was drawn.
    """

    html: str
    pictured: frozenset[int]
    naive: Sequence[float]
    changed: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Shown:
    """An image and its contours, as a page shows them.

    Attributes:
        number: instance number.
        row: of ``pairs.csv``; None if there is no pair.
        findings: about it.
        picture: None if neither image nor contour can be read.
    """

    number: int
    row: Row | None
    findings: Sequence[Row]
    picture: Picture | None

    @property
    def place(self) -> tuple[int, int]:
        """Slice and phase; -1 when unknown."""
        return (int(self.row["slice_index"]), int(self.row["phase_index"])) if self.row else (-1, -1)

    @property
    def worst(self) -> str:
        """The worst level of its findings."""
        return self.findings[0]["level"] if self.findings else ""

    @property
    def written(self) -> bool:
        """Whether it is a record."""
        return self.row is not None and self.row["written"] == "1"

    def measure(self, name: str) -> float:
        """A column of its row, or its contrast; NaN when it was not measured."""
        if self.row is None:
            return math.nan
        if name == "contrast":
            return float(self.row["mean_inside"] or "nan") - float(self.row["mean_ring"] or "nan")
        return float(self.row.get(name) or "nan")


def study_page(source: Source, config: Config, task: Task) -> StudyPage:
    """Reads the records and contours of a study, and makes its page.

    Raises:
        FatalInputError: the contour of a record is not there, or the records are damaged.
    """
    registration = Registration()
    contour_files = ContourFiles(source, config.origin)
    naive: list[float] = []
    drawn = {}
    changed = []
    for row, pixels, mask in _records(task):
        number = int(row["instance_number"])
        outlines = _contours_of_record(source, config, contour_files, task.study, number)
        if config.contours != "o":
            registration.add(pixels, mask == 1)
        naive.append(_naive_difference(mask, outlines[0][1]))
        if not _is_drawn(outlines[0][1], mask):
            changed.append(number)
        drawn[number] = pixels, mask, outlines
    window = Window.around([polygon for _, _, outlines in drawn.values() for _, polygon in outlines])
    findings: dict[int, list[Row]] = collections.defaultdict(list)
    for row in task.findings:
        if row["instance_number"]:
            findings[int(row["instance_number"])].append(row)
    rows = {int(row["instance_number"]): row for row in task.pairs}
    at_end_diastole = {
        row["slice_index"]: int(row["instance_number"])
        for row in task.pairs
        if row["phase_index"] == task.row["end_diastole_phase"] and int(row["instance_number"]) in drawn
    }
    shown = []
    for number in sorted(rows.keys() | findings.keys()):
        contours = []
        if any(row["reason"] == Reason.VOLUME_ORDER.value for row in findings[number]) and number in rows:
            before = at_end_diastole.get(rows[number]["slice_index"])
            contours = [("before", drawn[before][2][0][1])] if before else []
        picture = _picture(
            source, config, contour_files, task.study, number, findings[number], window, drawn.get(number), contours
        )
        shown.append(Shown(number, rows.get(number), findings[number], picture))
    first = _first(shown, config)
    html = render(
        "study.html",
        study=task.row,
        split=task.split,
        contours={_look(kind, config): f"{name} contour" for kind, name in NAMES.items() if kind in config.contours},
        before=any(row["reason"] == Reason.VOLUME_ORDER.value for row in task.findings),
        findings=[{**row, "href": f"#pair-{row['instance_number']}"} for row in task.findings],
        more=task.more,
        incomplete=_details(task.findings, Reason.INCOMPLETE_VOLUMES),
        of_other_images=_details(task.findings, Reason.CONTOURS_OF_OTHER_IMAGES),
        changed=changed,
        doubtful=_doubtful(task.row, rows, task.findings),
        first=first,
        numbers={pair.number for pair, _ in first},
        plots=_plots(task.row, shown, registration, config),
        **_sheet(task.row, shown),
    )
    return StudyPage(html, frozenset(pair.number for pair in shown if pair.picture), naive, changed)


def _details(findings: Sequence[Row], reason: Reason) -> list[str]:
    return [row["detail"] for row in findings if row["reason"] == reason.value]


def _doubtful(study: Row, rows: Mapping[int, Row], findings: Sequence[Row]) -> list[int]:
    """The instance numbers of implausible inner contours that the study's volumes count."""
    marked = {study["end_diastole_phase"], study["end_systole_phase"]}
    numbers = {
        int(row["instance_number"])
        for row in findings
        if row["reason"] == Reason.IMPLAUSIBLE_CONTOUR.value and row["contour"] == "i"
    }
    return [number for number in sorted(numbers & rows.keys()) if rows[number]["phase_index"] in marked]


def _records(task: Task) -> Iterator[tuple[Row, npt.NDArray[np.generic], npt.NDArray[np.generic]]]:
    """Row, image ``(H, W)`` and mask or label map ``(H, W)`` of each record of the study."""
    written = [row for row in task.pairs if row["written"] == "1"]
    if not written:
        return
    try:
        batches = iterate_batches(
            str(task.records_dir), task.split, 1, shuffle=False, epochs=1, image_dtype=None, start_step=task.first
        )
        for row, (images, masks) in zip(written, itertools.islice(batches, len(written)), strict=True):
            yield row, images[0, ..., 0], masks[0, ..., 0]
    except RecordsError as error:
        raise FatalInputError(str(task.records_dir), str(error)) from error


def _look(kind: ContourKind, config: Config) -> str:
    """The class of a contour in the style sheet."""
    if kind not in config.contours:
        return "other"
    return "own" if kind == config.contours else f"own {NAMES[kind]}"


def _contours_of_record(
    source: Source, config: Config, contour_files: ContourFiles, study: Study, number: int
) -> list[tuple[str, Polygon]]:
    """The contours of a record where they were drawn: on the records' grid, from their outer corner, inner first."""
    outlines = []
    contour_path, image_path = "", study.images.get(number, "")
    try:
        for kind in KINDS:
            if kind in config.contours:
                contour_path = study.contours[kind].get(number, "")
                header = functools.partial(_header, source, config, image_path)
                polygon = contour_files.read(contour_path, header)
                outlines.append((_look(kind, config), polygon))
        if config.image_size is None and config.pixel_spacing_mm is None:
            return outlines
        with opened(source, image_path, Reason.UNREADABLE_IMAGE) as file:
            grid = config.grid_of(reader.read_header(file, config.max_image_pixels))
        return [(look, grid.place(polygon)) for look, polygon in outlines]
    except InputError as error:
        detail = "is not there; pass the --data_dir that the records were made from"
        raise FatalInputError(contour_path or f"{study.study_id}, contour {number}", detail) from error


def _header(source: Source, config: Config, image_path: str) -> ImageHeader | None:
    """The header of an image; None if it cannot be read."""
    with contextlib.suppress(InputError), opened(source, image_path, Reason.UNREADABLE_IMAGE) as file:
        return reader.read_header(file, config.max_image_pixels)
    return None


def _is_drawn(polygon: Polygon, mask: npt.NDArray[np.generic]) -> bool:
    """Whether a record's mask, or the first class of its label map, is that of a contour."""
    try:
        return np.array_equal(masks.rasterize(polygon, mask.shape), mask == 1)
    except InputError:
        return False


def _naive_difference(mask: npt.NDArray[np.generic], polygon: Polygon) -> float:
    """Area of a plain, rounded ``cv2.fillPoly`` against the contour's, in percent."""
    naive = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(naive, [np.rint(polygon).astype(np.int32)], 1)
    return 100 * (float(naive.sum()) / polygons.area(polygon) - 1)


def _picture(
    source: Source,
    config: Config,
    contour_files: ContourFiles,
    study: Study,
    number: int,
    findings: Sequence[Row],
    window: Window | None,
    record: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], Sequence[tuple[str, Polygon]]] | None,
    more: Sequence[tuple[str, Polygon]],
) -> Picture | None:
    """A record with its contour, and all contours that findings are about. Without a record, the image as it is."""
    if record and not findings:
        return pictures.draw(window, record[0], record[1], record[2])
    contours = [*record[2]] if record else []
    for kind in KINDS:
        about = [row for row in findings if row["contour"] in ("", kind)]
        bad = any(row["level"] == Level.ERROR for row in about)
        look = _look(kind, config)
        if record and look != "other":
            continue
        # Two files may have one number. Then the study has neither, and the findings name them.
        paths = {study.contours[kind].get(number, "")} | {row["path"] for row in about if row["contour"] == kind}
        for path in sorted(paths - {""}):
            with contextlib.suppress(InputError):
                header = functools.partial(_header, source, config, study.images.get(number, ""))
                polygon = contour_files.read(path, header)
                contours.append((f"{look} bad" if bad else look, polygon))
    pixels: npt.NDArray[np.generic] | None = record[0] if record else None
    image_path = study.images.get(number)
    with contextlib.suppress(InputError):
        if image_path and (record is None or len(contours) > len(record[2])):
            with opened(source, image_path, Reason.UNREADABLE_IMAGE) as file:
                if record is None:
                    pixels = reader.read_pixels(file, config.max_image_pixels)
                elif config.image_size or config.pixel_spacing_mm:
                    grid = config.grid_of(reader.read_header(file, config.max_image_pixels))
                    contours = [
                        (look, grid.place(polygon) if "other" in look else polygon) for look, polygon in contours
                    ]
    return pictures.draw(window, pixels, record[1] if record else None, [*more, *contours])


def _first(shown: Sequence[Shown], config: Config) -> list[tuple[Shown, str]]:
    """What to look at first, and why: the extremes of what was measured, and pairs with errors and warnings.

    One pair of each reason comes before a second one of the same: first errors, then warnings, then the extremes.
    """
    reasons: dict[int, dict[str, None]] = collections.defaultdict(dict)
    ranks: dict[int, tuple[int, bool, int]] = {}
    before: collections.Counter[tuple[str, str]] = collections.Counter()
    for pair in shown:
        if pair.worst in (Level.ERROR, Level.WARNING):
            kind = pair.findings[0]["level"], pair.findings[0]["reason"]
            ranks[pair.number] = (before[kind], pair.findings[0]["left_out"] != "1", pair.worst != Level.ERROR)
            before[kind] += 1
            for row in pair.findings:
                reasons[pair.number][f"{row['level']}: {row['reason']}"] = None
    for name, sign, what in _EXTREMES:
        # Contrast is that of blood and muscle, so only inner contours have it.
        measured = [pair for pair in shown if not math.isnan(pair.measure(name))]
        if len(measured) > 2 and (name != "contrast" or config.contours != "o"):
            value = abs if name == "area_difference_percent" else float
            worst = max(measured, key=lambda pair: sign * value(pair.measure(name)))
            rank = 0, True, 2
            ranks[worst.number] = min(ranks.get(worst.number, rank), rank)
            reasons[worst.number][what] = None
    chosen = sorted((pair for pair in shown if pair.number in ranks), key=lambda pair: ranks[pair.number])
    return [(pair, "; ".join(reasons[pair.number])) for pair in chosen[:_FIRST]]


def _sheet(row: Row, shown: Sequence[Shown]) -> dict[str, Any]:
    """Slices × phases, and the pairs whose place is unknown or taken."""
    by_place: dict[tuple[int, int], Shown] = {}
    others = []
    for pair in shown:
        if min(pair.place) < 0 or by_place.setdefault(pair.place, pair) is not pair:
            others.append(pair)
    names = {int(row["end_diastole_phase"]): "end-diastole", int(row["end_systole_phase"]): "end-systole"}
    phases = sorted({place[1] for place in by_place})
    slices = _from_base_to_apex(by_place)
    return {
        "phases": [(phase, names.get(phase, "")) for phase in phases],
        "sheet": [(index, [by_place.get((index, phase)) for phase in phases]) for index in slices],
        "others": others,
        "phase_names": {name: phase for phase, name in names.items() if phase >= 0},
    }


def _from_base_to_apex(by_place: Mapping[tuple[int, int], Shown]) -> list[int]:
    """Slices from the end of the stack where the cavity is larger."""
    areas: dict[int, float] = collections.defaultdict(float)
    for (index, _), pair in by_place.items():
        areas[index] = max(areas[index], pair.measure("polygon_area_px"))
    slices = sorted(areas)
    half = len(slices) // 2
    first, last = (sum(areas[index] for index in part) for part in (slices[:half], slices[len(slices) - half :]))
    return slices if first >= last else slices[::-1]


def _plots(row: Row, shown: Sequence[Shown], registration: Registration, config: Config) -> list[tuple[Markup, str]]:
    """The study's plots with their captions."""
    plots = []
    pixel_mm2 = float(row["row_spacing_mm"] or "nan") * float(row["column_spacing_mm"] or "nan")
    areas: dict[int, dict[int, float]] = collections.defaultdict(dict)
    for pair in shown:
        if pair.written and min(pair.place) >= 0:
            areas[pair.place[1]][pair.place[0]] = pair.measure("polygon_area_px") * pixel_mm2
    marked = {"end-diastole": int(row["end_diastole_phase"]), "end-systole": int(row["end_systole_phase"])}
    by_slice = {
        f"{name} (phase {phase})": dict(sorted(areas[phase].items()))
        for name, phase in marked.items()
        if phase in areas
    }
    if by_slice and not math.isnan(pixel_mm2):
        plots.append((figures.areas_by_slice(by_slice), "Area inside the contours, by slice."))
    wall = {
        pair.place[0]: (pair.measure("myocardium_area_mm2"), pair.measure("wall_thickness_mm"))
        for pair in shown
        if pair.place[0] >= 0 and pair.place[1] == marked["end-diastole"]
    }
    known = {index: values for index, values in sorted(wall.items()) if not math.isnan(values[0])}
    if known:
        plots.append((figures.myocardium_by_slice(known), "The myocardium at end-diastole, by slice."))
    spacing_mm = float(row["slice_spacing_mm"] or "nan")
    if len(areas) > 2 and config.contours == "i" and not math.isnan(pixel_mm2 * spacing_mm):
        most = max(map(len, areas.values()))
        volumes = {phase: sum(by_index.values()) * spacing_mm / 1000 for phase, by_index in areas.items()}
        complete = {phase: len(by_index) == most for phase, by_index in areas.items()}
        curve = figures.volumes_by_phase(volumes, complete, {"ED": marked["end-diastole"], "ES": marked["end-systole"]})
        text = "Volume inside the contours, by phase"
        hollow = "; hollow: fewer slices have a contour than in other phases" if not all(complete.values()) else ""
        plots.append((curve, f"{text}{hollow}."))
    peak = registration.peak()
    if not math.isnan(peak.contrast):
        caption = (
            f"Contrast across the contours: {peak.contrast_unmoved:.1f} when they are not moved, at most "
            f"{peak.contrast:.1f} when all are moved by dx {signed(peak.dx, 2)}, dy {signed(peak.dy, 2)} pixels."
        )
        plots.append((figures.registration_map(registration.curve(), peak), caption))
    return plots
