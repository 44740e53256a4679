"""Pairs → shards of images and masks, and the measurements of their studies."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import schema
from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Finding, InputError, Reason, about
from preprocess.geometry import labels, masks, polygons
from preprocess.inputs.sources import Source, opened
from preprocess.model import Contours, Key, Pair, Study
from preprocess.output import dtypes, publication, writer
from preprocess.output.destinations import Destination
from preprocess.output.writer import Record, RecordSpec, Shard
from preprocess.quality import checks, contrast, measurements, myocardium, plausibility
from preprocess.quality.contrast import Fit
from preprocess.quality.measurements import PairRow, StudyRow, StudySummary
from preprocess.quality.myocardium import Wall
from preprocess.quality.registration import Registration
from preprocess.quality.volumes import Volumes
from preprocess.stages import pairing

_MOST_MEASURED = 100
"""Images that are only measured in one task."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to make of a study.

    Attributes:
        study: the study.
        summary: what its files and headers say.
        pairs: all its pairs of the kind that is written, or with both contours if both are.
        written: contour paths of the pairs that go into the records.
        inner: i-contour pairs for the measurements of the study.
        outer: o-contour pairs that inner ones are compared with.
        outside: for each i-contour, the share of its area outside its o-contour.
        dtype: of every image in the data set.
        walls: the myocardium of each image that has both contours.
    """

    study: Study
    summary: StudySummary
    pairs: Sequence[Pair]
    written: frozenset[str]
    inner: Sequence[Pair]
    outer: Sequence[Pair]
    outside: Mapping[Key, float]
    dtype: np.dtype[np.generic]
    walls: Mapping[Key, Wall]

    @property
    def records(self) -> list[tuple[Pair, PairRow]]:
        """The pairs that go into the records, and their rows so far."""
        return [(pair, self.rows[pair.contour_path]) for pair in self.pairs if pair.contour_path in self.written]

    @functools.cached_property
    def rows(self) -> dict[str, PairRow]:
        """The row of each pair before its image is read, by contour path."""
        return {pair.contour_path: measurements.unmeasured(pair, self.outside, self.walls) for pair in self.pairs}

    def measured_only(self, contours: Contours) -> list[Pair]:
        """The i-contour pairs that are not written, whose images the measurements of the study need."""
        return [pair for pair in self.inner if contours != "i" and pair.contour_path not in self.written]


@dataclasses.dataclass(frozen=True)
class Task:
    """Pairs that a worker decodes, draws and measures: those of one shard, or pairs that are not written.

    Attributes:
        pairs: the pairs whose images are read.
        rows: the row, so far, of each pair; empty where the pairs are not written.
        contours: the contours of both kinds that are measured on an image, by image path.
        dtype: of every image in the data set.
        split: the split of the shard.
        name: of the shard.
        destination: where to put the shard; None where the pairs are not written.
    """

    pairs: Sequence[Pair]
    rows: Sequence[PairRow]
    contours: Mapping[str, Sequence[Pair]]
    dtype: np.dtype[np.generic]
    split: str = ""
    name: str = ""
    destination: Destination | None = None


@dataclasses.dataclass
class Measured:
    """What the pairs of one study in a task add to the study.

    Attributes:
        pair_rows: the rows of the records, in their order.
        registration: how well the i-contours fit their images.
        fits: how each contour lies on its image, by contour path.
        failed: contour path of each pair whose image or contour could not be read.
    """

    pair_rows: list[PairRow] = dataclasses.field(default_factory=list)
    registration: Registration = dataclasses.field(default_factory=Registration)
    fits: dict[str, Fit] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The result of a task; it holds no pixels.

    Attributes:
        shard: the shard; None if there is none.
        studies: what the pairs add to their studies, by study id.
        findings: why pairs were left out.
    """

    shard: Shard | None
    studies: Mapping[str, Measured]
    findings: Sequence[Finding]


def tasks(
    selections: Sequence[Selection],
    split_of: Mapping[str, str],
    spec: RecordSpec,
    config: Config,
    destination: Destination,
) -> list[Task]:
    """The shards to write, split by split, and then the images that are only measured.

    Args:
        selections: what to make of each study.
        split_of: the split of each study that has pairs to write.
        spec: shape and dtype of the records.
        config: the settings.
        destination: where workers put shards.
    """
    of_split: dict[str, list[Selection]] = {name: [] for name in sorted(set(split_of.values()))}
    for selection in selections:
        if selection.written:
            of_split[split_of[selection.study.study_id]].append(selection)
    contours: dict[str, list[Pair]] = collections.defaultdict(list)
    for selection in selections:
        for pair in (*selection.inner, *selection.outer):
            contours[pair.image_path].append(pair)

    def task(pairs: Sequence[Pair], rows: Sequence[PairRow] = (), *shard: Any) -> Task:
        of_images = {pair.image_path: contours[pair.image_path] for pair in pairs}
        return Task(pairs, rows, of_images, spec.image_dtype, *shard)

    shards = []
    for split, members in of_split.items():
        written = [(pair, row) for selection in members for pair, row in selection.records]
        parts = writer.cut(len(written), config.num_shards, spec)
        for index, part in enumerate(parts):
            pairs, rows = zip(*written[part], strict=True)
            shards.append(task(pairs, rows, split, schema.shard_name(split, index, len(parts)), destination))
    measured = [pair for selection in selections for pair in selection.measured_only(config.contours)]
    unwritten = (measured[first : first + _MOST_MEASURED] for first in range(0, len(measured), _MOST_MEASURED))
    return shards + [task(pairs) for pairs in unwritten]


def render(source: Source, config: Config, task: Task) -> Rendered:
    """Decodes the images of a task's pairs, draws their masks, measures both, and writes the shard.

    Registration is measured on the original images, so it does not depend on the common grid.
    """
    studies: dict[str, Measured] = {}
    findings: list[Finding] = []
    records = _records(source, config, task, studies, findings)
    with publication.writing(config.output_dir):
        destination = task.destination
        shard = writer.write_shard(destination, task.name, task.split, records) if destination else None
    # Without a shard, nothing else has read the pairs.
    for _ in records:
        pass
    return Rendered(shard, studies, findings)


def _records(
    source: Source, config: Config, task: Task, studies: dict[str, Measured], findings: list[Finding]
) -> Iterator[Record]:
    """Yields the records of a task, and adds what is measured and found."""
    for pair, row in itertools.zip_longest(task.pairs, task.rows):
        study = studies.setdefault(pair.study_id, Measured())
        study.failed.add(pair.contour_path)
        try:
            image, mask = read_pair(source, config, pair)
            # The conversion also checks that values are finite, also for images that are only measured.
            with about(pair.image_path):
                pixels = dtypes.to_dtype(image, task.dtype if row else np.dtype(np.float32))
            study.failed.remove(pair.contour_path)
            if pair.kind == "i":
                study.registration.add(image, mask)
            for contour in task.contours[pair.image_path]:
                study.fits[contour.contour_path] = contrast.measure(
                    image, contour.polygon, contour.header, contour.kind
                )
            if row is None:
                continue
            record = Record(*_on_common_grid(pair, pixels, _written(pair, mask)))
            study.pair_rows.append(measurements.measured(row, image, mask, record.mask == 1, record.pair.polygon))
        except InputError as error:
            findings += _left_out(pair, error)
            continue
        yield record


class StudyTables:
    """Collects the rows of a study. Tasks are added in a fixed order, so sums are the same in every run."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._rows = dict(selection.rows)
        self._registration = Registration()
        self._fits: dict[str, Fit] = {}
        self._failed: set[str] = set()

    def add(self, measured: Measured) -> None:
        """Adds what the next task has measured."""
        self._rows |= {row.contour_path: row for row in measured.pair_rows}
        self._registration.merge(measured.registration)
        self._fits |= measured.fits
        self._failed |= measured.failed

    def complete(self) -> tuple[list[PairRow], StudyRow, list[Finding]]:
        """Judges the study, after all tasks were added.

        Returns:
            The row of every pair of the kind that is written, the study's row, and the findings from both.
        """
        selection, summary = self._selection, self._selection.summary
        inner, outer = (
            [pair for pair in pairs if pair.contour_path not in self._failed]
            for pairs in (selection.inner, selection.outer)
        )
        judgements = plausibility.judge([*inner, *outer], self._fits, summary.phases, summary.slice_spacing_mm)
        scores = {judgement.pair.contour_path: judgement.score for judgement in judgements}
        pair_rows = []
        for pair in selection.pairs:
            found = [scores[contour.contour_path] for contour in pair.contours if contour.contour_path in scores]
            pair_rows.append(
                dataclasses.replace(self._rows[pair.contour_path], implausibility=max(found, default=None))
            )
        areas = ((pair, polygons.area(pair.polygon)) for pair in inner)
        expected = {
            judgement.pair.contour_path: judgement.expected_area_px for judgement in judgements if judgement.detail
        }
        volumes = Volumes.of(areas, summary.slice_spacing_mm, summary.contoured, expected)
        other_images = plausibility.contours_of_other_images(inner, self._fits)
        row = measurements.study_row(
            selection.study,
            summary,
            sum(row.written for row in pair_rows),
            self._registration,
            volumes,
            self._myocardium_ml(inner, volumes),
            volumes.reliable and not other_images,
        )
        findings = [*checks.implausible(judgements), *checks.volume_order(inner, volumes)]
        for path in list(selection.study.contours["i"].values())[:1]:
            folder = path.rpartition("/")[0]
            findings += checks.incomplete_volumes(volumes, selection.study.study_id, folder)
            findings += checks.misregistered(row, folder)
            findings += checks.of_other_images(other_images, row, folder)
        return pair_rows, row, findings

    def _myocardium_ml(self, inner: Sequence[Pair], volumes: Volumes) -> float:
        """Volume of the myocardium at end-diastole; NaN where one of its slices lacks a contour."""
        phase, walls = volumes.end_diastole, self._selection.walls
        areas = {
            pair.slice_index: walls[pair.key].area_mm2 if pair.key in walls else math.nan
            for pair in inner
            if pair.phase_index == phase >= 0 and phase not in volumes.missing
        }
        return myocardium.volume_ml(list(areas.values()), self._selection.summary.slice_spacing_mm)


def complete(source: Source, config: Config, study: StudyTables) -> tuple[list[PairRow], StudyRow, list[Finding]]:
    """Judges a study, after all its tasks were added: what :meth:`StudyTables.complete` returns."""
    return study.complete()


def read_pair(source: Source, config: Config, pair: Pair) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Modality values ``(H, W)`` and mask bool ``(H, W)`` of a pair, of the i-contour where it has both.

    Raises:
        InputError: the image or the mask cannot be made, or the image has changed since it was examined.
    """
    with about(pair.contour_path):
        mask = masks.rasterize(pair.polygon, pair.header.shape)
    with opened(source, pair.image_path, Reason.UNREADABLE_IMAGE) as file:
        pixels = reader.read_pixels(file, config.max_image_pixels, pair.fingerprint)
        if pixels.shape != pair.header.shape:
            raise InputError(Reason.UNREADABLE_IMAGE, "its pixels are not Rows × Columns")
    return pixels, mask


def _written(pair: Pair, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
    """What is written of a pair: its mask, or the label map uint8 ``(H, W)`` of both contours.

    Raises:
        InputError: the label map cannot be drawn because of the o-contour.
    """
    if pair.outer is None:
        return mask
    outlines = (contour.polygon for contour in pair.contours)
    regions = list(zip(schema.LABEL_CLASSES[1:], outlines, strict=True))
    # The i-contour is not at fault: more than half of each pixel of the mask is blood pool.
    with about(pair.outer.contour_path):
        return labels.label_map(regions, schema.LABEL_CLASSES, mask.shape)


def _on_common_grid(
    pair: Pair, pixels: npt.NDArray[np.generic], drawn: npt.NDArray[np.generic]
) -> tuple[Pair, npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """A pair, its image and its mask or label map on the common grid; unchanged without one.

    Raises:
        InputError: ``outside_image`` or ``degenerate_contour``: the contour lies outside the grid or covers no pixel.
    """
    grid = pair.grid
    if grid.changes_nothing:
        return pair, pixels, drawn
    header = dataclasses.replace(pair.header, shape=grid.shape, pixel_spacing_mm=grid.spacing_mm)
    outer = pair.outer and dataclasses.replace(pair.outer, header=header, polygon=grid.place(pair.outer.polygon))
    placed = dataclasses.replace(pair, header=header, polygon=grid.place(pair.polygon), outer=outer)
    try:
        with about(pair.contour_path):
            mask = masks.rasterize(placed.polygon, grid.shape)
        drawn = _written(placed, mask)
    except InputError as error:
        remedy = "enlarge --image_size, or choose another --pixel_spacing_mm"
        with about(error.path):
            raise InputError(error.reason, f"on the common grid {error.detail}", remedy) from error
    return placed, grid.resample(pixels), drawn


def _left_out(pair: Pair, error: InputError) -> list[Finding]:
    """The findings for a pair whose image or contour cannot be used."""
    for contour in pair.contours:
        if error.path == contour.contour_path:
            return [Finding.of(error, *pair.key, contour.kind)]
    return [
        Finding.of(error, *pair.key),
        *(
            pairing.without_image(*pair.key, pair.image_path, contour.contour_path, contour.kind)
            for contour in pair.contours
        ),
    ]
