"""Pairs → shards of images and masks, and the measurements of their studies."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import schema
from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Finding, InputError, Reason, about
from preprocess.geometry import Polygon, labels, masks
from preprocess.inputs.contour_files import ContourFiles
from preprocess.inputs.sources import Source, opened
from preprocess.model import Contours, ImageHeader, Match, Pair, PlannedPair
from preprocess.output import dtypes, publication, writer
from preprocess.output.destinations import Destination
from preprocess.output.writer import Record, RecordSpec, Shard
from preprocess.quality import checks, contrast, measurements, myocardium, plausibility
from preprocess.quality.contrast import Fit
from preprocess.quality.measurements import PairRow, StudyRow, StudySummary
from preprocess.quality.registration import Registration
from preprocess.quality.volumes import Volumes
from preprocess.stages import pairing

_MOST_MEASURED = 100
"""Images that are only measured in one task."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to make of a study.

    Attributes:
        summary: what its files and headers say.
        pairs: all its pairs of the kind that is written, or with both contours if both are.
        records: those of them that go into the records.
        inner: i-contour pairs for the measurements of the study.
        outer: o-contour pairs that inner ones are compared with.
    """

    summary: StudySummary
    pairs: Sequence[PlannedPair]
    records: Sequence[PlannedPair]
    inner: Sequence[PlannedPair]
    outer: Sequence[PlannedPair]

    def measured_only(self, contours: Contours) -> list[PlannedPair]:
        """The i-contour pairs that are not written, whose images the measurements of the study need."""
        written = {pair.contour_path for pair in self.records}
        return [pair for pair in self.inner if contours != "i" and pair.contour_path not in written]


@dataclasses.dataclass(frozen=True)
class Task:
    """Pairs that a worker decodes, draws and measures: those of one shard, or pairs that are not written.

    Attributes:
        pairs: the pairs whose images are read.
        contours: the contours of both kinds that are measured on an image, by image path.
        dtype: of every image in the data set.
        split: the split of the shard.
        name: of the shard.
        destination: where to put the shard; None where the pairs are not written.
    """

    pairs: Sequence[PlannedPair]
    contours: Mapping[str, Sequence[PlannedPair]]
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
        if selection.records:
            of_split[split_of[selection.summary.study_id]].append(selection)
    contours: dict[str, list[PlannedPair]] = collections.defaultdict(list)
    for selection in selections:
        for pair in (*selection.inner, *selection.outer):
            contours[pair.image_path].append(pair)

    def task(pairs: Sequence[PlannedPair], *shard: Any) -> Task:
        of_images = {pair.image_path: contours[pair.image_path] for pair in pairs}
        return Task(pairs, of_images, spec.image_dtype, *shard)

    shards = []
    for split, members in of_split.items():
        written = [pair for selection in members for pair in selection.records]
        parts = writer.cut(len(written), config.num_shards, spec)
        for index, part in enumerate(parts):
            shards.append(task(written[part], split, schema.shard_name(split, index, len(parts)), destination))
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
    contour_files = ContourFiles(source, config.origin)
    for pair in task.pairs:
        study = studies.setdefault(pair.study_id, Measured())
        study.failed.add(pair.contour_path)
        try:
            outlines = {
                contour.contour_path: _outline(source, config, contour_files, contour) for contour in pair.contours
            }
            with about(pair.contour_path):
                mask = masks.rasterize(outlines[pair.contour_path], pair.grid.source_shape)
            with opened(source, pair.image_path, Reason.UNREADABLE_IMAGE) as file:
                header, image = reader.read_image(file, config.max_image_pixels, pair.fingerprint)
            # The conversion also checks that values are finite, also for images that are only measured.
            with about(pair.image_path):
                pixels = dtypes.to_dtype(image, task.dtype if task.destination else np.dtype(np.float32))
            study.failed.remove(pair.contour_path)
            if pair.kind == "i":
                study.registration.add(image, mask)
            for contour in task.contours[pair.image_path]:
                path = contour.contour_path
                try:
                    outline = outlines[path] if path in outlines else _outline(source, config, contour_files, contour)
                except InputError as error:
                    study.failed.add(path)
                    findings.append(Finding.of(error, *contour.key, contour.kind))
                else:
                    study.fits[path] = contrast.measure(image, outline, header, contour.kind)
            if task.destination is None:
                continue
            record = _record(pair, header, pixels, [*outlines.values()], mask)
            row = measurements.unmeasured(pair)
            study.pair_rows.append(measurements.measured(row, image, mask, record.mask == 1, record.pair.polygon))
        except InputError as error:
            findings += _left_out(pair, error)
            continue
        yield record


def _outline(source: Source, config: Config, contour_files: ContourFiles, pair: PlannedPair) -> Polygon:
    """Reads the contour of a pair again.

    Raises:
        InputError: the contour or its image cannot be read, or the contour has changed since it was examined.
    """

    def header() -> ImageHeader:
        with opened(source, pair.image_path, Reason.UNREADABLE_IMAGE) as file:
            return reader.read_header(file, config.max_image_pixels)

    return contour_files.read(pair.contour_path, header, pair.digest)


class StudyTables:
    """Collects the rows of a study. Tasks are added in a fixed order, so sums are the same in every run."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._rows: dict[str, PairRow] = {}
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
            row = self._rows.get(pair.contour_path) or measurements.unmeasured(pair)
            pair_rows.append(dataclasses.replace(row, implausibility=max(found, default=None)))
        areas = ((pair, pair.area_px) for pair in inner)
        expected = {
            judgement.pair.contour_path: judgement.expected_area_px for judgement in judgements if judgement.detail
        }
        volumes = Volumes.of(areas, summary.slice_spacing_mm, summary.contoured, expected)
        other_images = plausibility.contours_of_other_images(inner, self._fits)
        study_row = measurements.study_row(
            summary,
            sum(row.written for row in pair_rows),
            self._registration,
            volumes,
            self._myocardium_ml(inner, volumes),
            volumes.reliable and not other_images,
        )
        findings = [*checks.implausible(judgements), *checks.volume_order(inner, volumes)]
        if summary.i_folder is not None:
            findings += checks.incomplete_volumes(volumes, summary.study_id, summary.i_folder)
            findings += checks.misregistered(study_row, summary.i_folder)
            findings += checks.of_other_images(other_images, study_row, summary.i_folder)
        return pair_rows, study_row, findings

    def _myocardium_ml(self, inner: Sequence[PlannedPair], volumes: Volumes) -> float:
        """Volume of the myocardium at end-diastole; NaN where one of its slices lacks a contour."""
        phase = volumes.end_diastole
        areas = {
            pair.slice_index: pair.wall[0] if pair.wall else math.nan
            for pair in inner
            if pair.phase_index == phase >= 0 and phase not in volumes.missing
        }
        return myocardium.volume_ml(list(areas.values()), self._selection.summary.slice_spacing_mm)


def complete(source: Source, config: Config, study: StudyTables) -> tuple[list[PairRow], StudyRow, list[Finding]]:
    """Judges a study, after all its tasks were added: what :meth:`StudyTables.complete` returns."""
    return study.complete()


def _written(pair: PlannedPair, outlines: Sequence[Polygon], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
    """What is written of a pair: its mask, or the label map uint8 ``(H, W)`` of both contours.

    Raises:
        InputError: the label map cannot be drawn because of the o-contour.
    """
    if pair.outer is None:
        return mask
    regions = list(zip(schema.LABEL_CLASSES[1:], outlines, strict=True))
    # The i-contour is not at fault: more than half of each pixel of the mask is blood pool.
    with about(pair.outer.contour_path):
        return labels.label_map(regions, schema.LABEL_CLASSES, mask.shape)


def _record(
    pair: PlannedPair,
    header: ImageHeader,
    pixels: npt.NDArray[np.generic],
    outlines: Sequence[Polygon],
    mask: npt.NDArray[np.bool_],
) -> Record:
    """The record of a pair, on the common grid where there is one.

    Args:
        pair: the pair.
        header: of its image.
        pixels: the image ``(H, W)``, in the dtype of the data set.
        outlines: its contours, from the inside out.
        mask: bool ``(H, W)``, of the first contour.

    Raises:
        InputError: ``outside_image`` or ``degenerate_contour``: the contour lies outside the grid or covers no pixel;
            or the label map cannot be drawn.
    """
    names = {field.name: getattr(pair, field.name) for field in dataclasses.fields(Match)}
    drawn, grid = _written(pair, outlines, mask), pair.grid
    if grid.changes_nothing:
        return Record(Pair(**names, header=header, polygon=outlines[0]), pixels, drawn)
    header = dataclasses.replace(header, shape=grid.shape, pixel_spacing_mm=grid.spacing_mm)
    placed = [grid.place(outline) for outline in outlines]
    try:
        with about(pair.contour_path):
            mask = masks.rasterize(placed[0], grid.shape)
        drawn = _written(pair, placed, mask)
    except InputError as error:
        remedy = "enlarge --image_size, or choose another --pixel_spacing_mm"
        with about(error.path):
            raise InputError(error.reason, f"on the common grid {error.detail}", remedy) from error
    return Record(Pair(**names, header=header, polygon=placed[0]), grid.resample(pixels), drawn)


def _left_out(pair: PlannedPair, error: InputError) -> list[Finding]:
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
