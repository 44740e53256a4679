"""One study's pairs → images and masks, and what is measured of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from preprocess import checks, dicom, masks, measurements, pairing, polygons, values
from preprocess.config import Config
from preprocess.errors import Finding, InputError
from preprocess.measurements import Outline, PairRow, StudyRow
from preprocess.registration import Registration
from preprocess.sources import Source, opened
from preprocess.study import Key, Pair, Study
from preprocess.volumes import Volumes


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is to be made of a study.

    Attributes:
        study: the study.
        outline: what its files say as a whole.
        pairs: all pairs of the kind that is written.
        written: contour paths of those that go into the records.
        inner: i-contour pairs that the study is measured by.
        outside: share of each i-contour's area outside its o-contour.
        dtype: of the data set's images.
    """

    study: Study
    outline: Outline
    pairs: Sequence[Pair]
    written: frozenset[str]
    inner: Sequence[Pair]
    outside: Mapping[Key, float]
    dtype: np.dtype[np.generic]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What was made of a study.

    Attributes:
        records: pair, image ``(H, W)`` of the data set's dtype and mask bool ``(H, W)``, by number; all three on the
            common grid where there is one.
        pair_rows: of every pair, in the same order.
        study_row: of the study.
        findings: pairs that could not be made, and what the measurements show.
    """

    records: Sequence[tuple[Pair, npt.NDArray[np.generic], npt.NDArray[np.bool_]]]
    pair_rows: Sequence[PairRow]
    study_row: StudyRow
    findings: Sequence[Finding]


def render(source: Source, config: Config, selection: Selection) -> Rendered:
    """Decodes the images of a study's pairs, draws their masks, and measures the study by its i-contours.

    The study is measured on its images as the files have them, so that its row does not depend on the common grid.
    """
    rows = {pair.contour_path: measurements.unmeasured(pair, selection.outside) for pair in selection.pairs}
    registration = Registration()
    records, findings, failed = [], [], set()
    for pair in [*selection.pairs, *(() if config.contours == "i" else selection.inner)]:
        written = pair.contour_path in selection.written
        if not written and pair.kind == config.contours:
            continue
        try:
            image, mask = read_pair(source, config, pair)
            pixels = values.to_dtype(image, selection.dtype, pair.image_path) if written else image
        except InputError as error:
            findings += _left_out(pair, error)
            failed.add(pair.key)
            continue
        if pair.kind == "i":
            registration.add(image, mask)
        if not written:
            continue
        try:
            record = _on_common_grid(config, pair, pixels, mask)
        except InputError as error:
            findings += _left_out(pair, error)
            continue
        records.append(record)
        row = rows[pair.contour_path]
        rows[pair.contour_path] = measurements.measured(row, image, mask, record[2], record[0].polygon)
    inner = [pair for pair in selection.inner if pair.key not in failed]
    areas = ((pair, polygons.area(pair.polygon)) for pair in inner)
    volumes = Volumes.of(areas, selection.outline.slice_spacing_mm, selection.outline.contoured)
    study_row = measurements.study_row(selection.study, selection.outline, len(records), registration, volumes)
    findings += checks.volume_order(inner, volumes)
    for path in list(selection.study.contours["i"].values())[:1]:
        folder = path.rpartition("/")[0]
        findings += checks.incomplete_volumes(volumes, selection.study.study_id, folder)
        findings += checks.misregistered(study_row, folder, config.contour_origin)
    return Rendered(records, list(rows.values()), study_row, findings)


def read_pair(source: Source, config: Config, pair: Pair) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Modality values ``(H, W)`` and mask bool ``(H, W)`` of a pair.

    Raises:
        InputError: either cannot be made.
    """
    mask = masks.rasterize(pair.polygon, pair.header.shape, pair.contour_path, config.contour_origin)
    with opened(source, pair.image_path, "unreadable_image") as file:
        pixels = dicom.read_pixels(file, pair.image_path, config.max_image_pixels)
    if pixels.shape != pair.header.shape:
        raise InputError(pair.image_path, "its pixels are not Rows × Columns", "unreadable_image")
    return pixels, mask


def _on_common_grid(
    config: Config, pair: Pair, pixels: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]
) -> tuple[Pair, npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """A pair as it lies on the common grid, its image resampled and its mask drawn there; all as it is without one.

    Raises:
        InputError: ``outside_image`` or ``degenerate_contour``, the contour lies beyond the grid or is lost in it.
    """
    header, path = pair.header, pair.contour_path
    grid = config.grid_of(header, pair.image_path)
    if grid.changes_nothing:
        return pair, pixels, mask
    header = dataclasses.replace(header, shape=grid.shape, pixel_spacing_mm=grid.spacing_mm)
    placed = dataclasses.replace(pair, header=header, polygon=grid.place(pair.polygon, config.contour_origin))
    try:
        drawn = masks.rasterize(placed.polygon, grid.shape, path)
    except InputError as error:
        detail = f"on the common grid {error.detail}; enlarge --image_size, or choose another --pixel_spacing_mm"
        raise InputError(path, detail, error.reason) from error
    return placed, grid.resample(pixels), drawn


def _left_out(pair: Pair, error: InputError) -> list[Finding]:
    """What is found of a pair of which one file cannot be used."""
    if error.path == pair.contour_path:
        return [Finding.of(error, "contour", pair.study_id, pair.number)]
    return [
        Finding.of(error, "image", pair.study_id, pair.number),
        pairing.without_image(pair.study_id, pair.number, pair.image_path, pair.contour_path),
    ]
