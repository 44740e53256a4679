"""The stages, in order."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tqdm

from preprocess import audit, contours, dicom, discover, masks, pairing, sources, splits, values, writer
from preprocess.config import Config
from preprocess.errors import Finding, InputError
from preprocess.study import ImageHeader, Pair, Polygon, Study

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did, for its last lines.

    Attributes:
        records: pairs written, by split.
        left_out: inputs left out, by reason.
        noted: inputs with a warning, by reason.
    """

    records: Mapping[str, int]
    left_out: Mapping[str, int]
    noted: Mapping[str, int]


def run(config: Config) -> Summary:
    """Parses, pairs, rasterizes, audits and writes; publishes a complete records directory or nothing.

    Raises:
        InputError: nothing can be published; the message says why.
    """
    writer.check_output(config.output_dir, config.overwrite)
    exclusions = audit.read_exclusions(config.exclude) if config.exclude else {}
    source = sources.open_source(config.data_dir)
    studies, findings = discover.discover(source)
    _log.info("%s: %d studies, %d files", source.name, len(studies), len(source.paths))
    found = audit.Audit()
    found.add(findings)

    pairs: list[Pair] = []
    with _progress(sum(len(study.images) for study in studies), "headers") as bar:
        for study in studies:
            headers, polygons, findings = _read_study(source, study, config, bar)
            found.add(findings)
            paired, findings = pairing.pair(study, config.contours, headers, polygons)
            found.add(findings)
            pairs += paired
            _log.info("%s: %d images, %d pairs", study.study_id, len(study.images), len(paired))
    pairs, findings = _without_excluded(pairs, exclusions)
    found.add(findings)
    pairs, findings = _of_one_shape(pairs)
    found.add(findings)
    if not pairs:
        raise _nothing(config, found)
    dtype, exact = values.smallest_dtype(pair.header for pair in pairs)
    if not exact:
        _log.warning("modality values are not all integers that float32 holds: images are rounded to float32")

    assigned = splits.assign(config.split, {pair.study_id for pair in pairs})
    split_of = {study_id: name for name, members in assigned.items() for study_id in members}
    planned = collections.Counter(split_of[pair.study_id] for pair in pairs)
    settings = {
        **config.shaping(),
        "exclude": [[study_id, number] for study_id, number in sorted(exclusions)],
        "exact_values": exact,
    }
    written = collections.Counter(dict.fromkeys(assigned, 0))
    with (
        writer.RecordsWriter(
            config.output_dir,
            config.overwrite,
            pairs[0].header.shape,
            dtype,
            {name: planned[name] for name in assigned},
            config.num_shards,
        ) as records,
        _progress(len(pairs), "records") as bar,
    ):
        for pair in pairs:
            try:
                image, mask = _read_pair(source, pair, config, dtype)
            except InputError as error:
                found.add(_left_out(pair, error))
            else:
                records.write(split_of[pair.study_id], pair, image, mask)
                written[split_of[pair.study_id]] += 1
            bar.update()
        empty = [name for name, count in written.items() if count == 0]
        if empty:
            raise _nothing(config, found, f" in split {', '.join(empty)}")
        if config.strict and found.counts("error"):
            raise _listing("--strict: nothing published, for the audit has errors", config, found)
        records.publish(assigned, settings, found.dump())
    return Summary(dict(written), found.counts("error"), found.counts("warning"))


def _progress(total: int, what: str) -> tqdm.tqdm[None]:
    """A bar on a terminal, nothing elsewhere: there the log lines tell."""
    return tqdm.tqdm(total=total, desc=what, unit="file", disable=None, leave=False)


def _read_study(
    source: sources.Source, study: Study, config: Config, bar: tqdm.tqdm[None]
) -> tuple[dict[int, ImageHeader], dict[int, Polygon], list[Finding]]:
    """Every header of a study, and every contour of the kind asked for, by number."""
    headers: dict[int, ImageHeader] = {}
    polygons: dict[int, Polygon] = {}
    findings = []
    for number, path in study.images.items():
        try:
            with _opened(source, path, "unreadable_image") as file:
                headers[number] = dicom.read_header(file, path, config.max_image_pixels)
        except InputError as error:
            findings.append(Finding.of(error, "image", study.study_id, number))
        bar.update()
    for number, path in study.contours[config.contours].items():
        try:
            with _opened(source, path, "unreadable_contour") as file:
                polygons[number] = contours.read_contour(file, path)
        except InputError as error:
            findings.append(Finding.of(error, "contour", study.study_id, number))
    return headers, polygons, findings


@contextlib.contextmanager
def _opened(source: sources.Source, path: str, reason: str) -> Iterator[BinaryIO]:
    """Opens a file; what the system says against reading it is an error about that file."""
    try:
        with source.open(path) as file:
            yield file
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror or error}", reason) from error


def _without_excluded(
    pairs: Sequence[Pair], exclusions: Mapping[tuple[str, int], str]
) -> tuple[list[Pair], list[Finding]]:
    kept, findings = [], []
    unused = dict(exclusions)
    for pair in pairs:
        reason = unused.pop((pair.study_id, pair.number), None)
        if reason is None:
            kept.append(pair)
        else:
            detail = f"left out by --exclude: {reason or 'no reason given'}"
            findings.append(Finding("excluded", "pair", pair.contour_path, detail, pair.study_id, pair.number))
    for study_id, number in unused:
        _log.warning("--exclude names %s, %d, but there is no such pair", study_id, number)
    return kept, findings


def _of_one_shape(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Finding]]:
    """The pairs of the commonest shape (of two as common, the smaller)."""
    shapes = collections.Counter(pair.header.shape for pair in pairs)
    if len(shapes) < 2:
        return list(pairs), []
    common = min(shapes, key=lambda shape: (-shapes[shape], shape))
    kept, findings = [], []
    for pair in pairs:
        if pair.header.shape == common:
            kept.append(pair)
        else:
            sizes = "{} × {} pixels, {} × {} expected, as most images have".format(*pair.header.shape, *common)
            findings.append(Finding("size_mismatch", "pair", pair.image_path, sizes, pair.study_id, pair.number))
    return kept, findings


def _read_pair(
    source: sources.Source, pair: Pair, config: Config, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Image ``(H, W)`` of the data set's dtype, and its mask.

    Raises:
        InputError: either cannot be made.
    """
    mask = masks.rasterize(pair.polygon, pair.header.shape, pair.contour_path, config.contour_origin)
    with _opened(source, pair.image_path, "unreadable_image") as file:
        pixels = dicom.read_pixels(file, pair.image_path, config.max_image_pixels)
    if pixels.shape != pair.header.shape:
        raise InputError(pair.image_path, "its pixels are not Rows × Columns", "unreadable_image")
    return values.to_dtype(pixels, dtype, pair.image_path), mask


def _left_out(pair: Pair, error: InputError) -> list[Finding]:
    """What is found of a pair of which one file cannot be used."""
    if error.path == pair.contour_path:
        return [Finding.of(error, "contour", pair.study_id, pair.number)]
    return [
        Finding.of(error, "image", pair.study_id, pair.number),
        pairing.without_image(pair.study_id, pair.number, pair.image_path, pair.contour_path),
    ]


def _nothing(config: Config, found: audit.Audit, where: str = "") -> InputError:
    return _listing(f"no image and contour could be paired{where}", config, found)


def _listing(message: str, config: Config, found: audit.Audit) -> InputError:
    """An error that ends the job, with the first of the findings that led to it: no audit is published then."""
    errors = found.of_level("error")
    lines = [f"  {finding.reason}: {finding.path}: {finding.detail}" for finding in errors[:10]]
    if len(errors) > len(lines):
        lines.append(f"  … and {len(errors) - len(lines)} more")
    return InputError(str(config.data_dir), "\n".join([message, *lines]))
