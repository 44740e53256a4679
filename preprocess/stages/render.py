"""The pairs of one study → images and masks, and their measurements."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline import schema
from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Finding, InputError, Reason, about
from preprocess.geometry import labels, masks, polygons
from preprocess.inputs.sources import Source, opened
from preprocess.model import Key, Pair, Study
from preprocess.output import dtypes
from preprocess.quality import checks, contrast, measurements, myocardium, plausibility
from preprocess.quality.contrast import Fit
from preprocess.quality.measurements import PairRow, StudyRow, StudySummary
from preprocess.quality.myocardium import Wall
from preprocess.quality.registration import Registration
from preprocess.quality.volumes import Volumes
from preprocess.stages import pairing

PART_BYTES = 16 << 20
"""Image and mask bytes of a part: its result fits a worker's memory. 129 pairs of 208 × 208 int16 pixels."""


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
    def rows(self) -> dict[str, PairRow]:
        """The row of each pair before its image is read, by contour path."""
        return {pair.contour_path: measurements.unmeasured(pair, self.outside, self.walls) for pair in self.pairs}

    def parts(self, config: Config, shape: tuple[int, int]) -> list[Part]:
        """The pairs whose images are read, in parts of at most ``PART_BYTES``, or of one pair if it is larger.

        Args:
            config: the settings.
            shape: rows and columns of the records.
        """
        read = [pair for pair in self.pairs if pair.contour_path in self.written]
        if config.contours != "i":
            read += [pair for pair in self.inner if pair.contour_path not in self.written]
        contours: dict[str, list[Pair]] = collections.defaultdict(list)
        for pair in (*self.inner, *self.outer):
            contours[pair.image_path].append(pair)
        size = max(1, PART_BYTES // (shape[0] * shape[1] * (self.dtype.itemsize + 1)))
        rows = self.rows
        return [
            Part(
                self.study.study_id,
                pairs,
                {pair.contour_path: rows[pair.contour_path] for pair in pairs if pair.contour_path in self.written},
                {pair.image_path: contours[pair.image_path] for pair in pairs},
                self.dtype,
            )
            for pairs in (read[first : first + size] for first in range(0, len(read), size))
        ]


@dataclasses.dataclass(frozen=True)
class Part:
    """Pairs of one study that a worker decodes, draws and measures in one task.

    Attributes:
        study_id: of the study.
        pairs: the pairs whose images are read.
        rows: the rows, so far, of the pairs that go into the records, by contour path.
        contours: the contours of both kinds that are measured on an image, by image path.
        dtype: of every image in the data set.
    """

    study_id: str
    pairs: Sequence[Pair]
    rows: Mapping[str, PairRow]
    contours: Mapping[str, Sequence[Pair]]
    dtype: np.dtype[np.generic]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The result of a part.

    Attributes:
        records: pair, image ``(H, W)`` of the data set's dtype and mask ``(H, W)``, bool or a label map uint8, by
            number; all three on the common grid, if there is one.
        pair_rows: the rows of the records, in the same order.
        registration: how well the i-contours fit their images.
        fits: how each contour lies on its image, by contour path.
        failed: contour path of each pair whose image or contour could not be read.
        findings: why pairs were left out.
    """

    records: Sequence[tuple[Pair, npt.NDArray[np.generic], npt.NDArray[np.generic]]]
    pair_rows: Sequence[PairRow]
    registration: Registration
    fits: Mapping[str, Fit]
    failed: frozenset[str]
    findings: Sequence[Finding]


def render(source: Source, config: Config, part: Part) -> Rendered:
    """Decodes the images of a part's pairs, draws their masks, and measures both.

    Registration is measured on the original images, so it does not depend on the common grid.
    """
    registration = Registration()
    records, pair_rows, findings = [], [], []
    fits = {}
    failed = {pair.contour_path for pair in part.pairs}
    for pair in part.pairs:
        row = part.rows.get(pair.contour_path)
        try:
            image, mask = read_pair(source, config, pair)
            # The conversion also checks that values are finite, also for images that are only measured.
            with about(pair.image_path):
                pixels = dtypes.to_dtype(image, part.dtype if row else np.dtype(np.float32))
            failed.remove(pair.contour_path)
            if pair.kind == "i":
                registration.add(image, mask)
            for contour in part.contours[pair.image_path]:
                fits[contour.contour_path] = contrast.measure(image, contour.polygon, contour.header, contour.kind)
            if row:
                record = _on_common_grid(pair, pixels, _written(pair, mask))
                records.append(record)
                pair_rows.append(measurements.measured(row, image, mask, record[2] == 1, record[0].polygon))
        except InputError as error:
            findings += _left_out(pair, error)
    return Rendered(records, pair_rows, registration, fits, frozenset(failed), findings)


class StudyTables:
    """Collects the rows of a study. Parts are added in a fixed order, so sums are the same in every run."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._rows = selection.rows
        self._registration = Registration()
        self._fits: dict[str, Fit] = {}
        self._failed: set[str] = set()

    def add(self, rendered: Rendered) -> None:
        """Adds the next part."""
        self._rows |= {row.contour_path: row for row in rendered.pair_rows}
        self._registration.merge(rendered.registration)
        self._fits |= rendered.fits
        self._failed |= rendered.failed

    def complete(self) -> tuple[list[PairRow], StudyRow, list[Finding]]:
        """Judges the study, after all parts were added.

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
