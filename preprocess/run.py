"""The stages, in order."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence

import tqdm

from pipeline import schema
from preprocess import audit, checks, discover, measurements, polygons, sources, splits, values, writer
from preprocess.config import Config
from preprocess.errors import Finding, InputError
from preprocess.examine import Examined, examine, left_out, read_pair
from preprocess.measurements import PairRow, StudyRow, Volumes
from preprocess.registration import Registration
from preprocess.sources import Source
from preprocess.study import KINDS, ContourKind, Key, Pair
from preprocess.writer import RecordsWriter

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
    found = audit.Audit()
    examined = _examine(source, config, found)
    found.add(_excluded(examined, config, exclusions))
    kept: dict[ContourKind, list[Pair]] = {
        kind: [pair for content in examined for pair in content.pairs[kind] if pair.key not in exclusions]
        for kind in KINDS
    }
    outside = _outside(kept)
    found.add(_check(kept, examined, outside))
    rejected = Rejected.of(found.of_level("error"))
    pairs, findings = _of_one_shape(rejected.others(kept[config.contours]))
    found.add(findings)
    if not pairs:
        raise _listing("no image and contour could be paired", config, found)
    dtype, exact = values.smallest_dtype(pair.header for pair in pairs)
    if not exact:
        _log.warning("modality values are not all integers that float32 holds: images are rounded to float32")
    assigned = splits.assign(config.split, {pair.study_id for pair in pairs})
    split_of_study = {study_id: name for name, members in assigned.items() for study_id in members}
    split_of = {pair.contour_path: split_of_study[pair.study_id] for pair in pairs}
    planned = collections.Counter(split_of.values())

    with (
        RecordsWriter(
            config.output_dir,
            config.overwrite,
            pairs[0].header.shape,
            dtype,
            {name: planned[name] for name in assigned},
            config.num_shards,
        ) as records,
        _progress(len(pairs), "records") as bar,
    ):
        pair_rows: list[PairRow] = []
        study_rows: list[StudyRow] = []
        for content in examined:
            inner = rejected.others(content.pairs["i"])
            rows, study_row = _write_study(source, content, inner, config, records, split_of, outside, found, bar)
            pair_rows += rows
            study_rows.append(study_row)
        empty = assigned.keys() - {split_of[row.contour_path] for row in pair_rows if row.written}
        if empty:
            raise _listing(f"no image and contour could be paired in split {', '.join(sorted(empty))}", config, found)
        if config.strict and found.counts("error"):
            raise _listing("--strict: nothing published, for the audit has errors", config, found)
        settings = {
            **config.shaping(),
            "exclude": [[study_id, number] for study_id, number in sorted(exclusions)],
            "exact_values": exact,
        }
        tables = {
            schema.AUDIT_FILE: found.dump(),
            schema.PAIRS_FILE: measurements.dump_table(PairRow, pair_rows),
            schema.STUDIES_FILE: measurements.dump_table(StudyRow, study_rows),
        }
        info = records.publish(assigned, settings, tables)
    counts = {name: split.count for name, split in info.splits.items()}
    return Summary(counts, found.counts("error"), found.counts("warning"))


def _progress(total: int, what: str) -> tqdm.tqdm[None]:
    """A bar on a terminal, nothing elsewhere: there the log lines tell."""
    return tqdm.tqdm(total=total, desc=what, unit="file", disable=None, leave=False)


def _examine(source: Source, config: Config, found: audit.Audit) -> list[Examined]:
    studies, findings = discover.discover(source)
    found.add(findings)
    _log.info("%s: %d studies, %d files", source.name, len(studies), len(source.paths))
    examined = []
    with _progress(sum(len(study.images) for study in studies), "headers") as bar:
        for study in studies:
            content = examine(source, study, config, bar.update)
            found.add(content.findings)
            examined.append(content)
            pairs = len(content.pairs[config.contours])
            _log.info("%s: %d images, %d pairs", study.study_id, len(study.images), pairs)
    return examined


def _excluded(examined: Iterable[Examined], config: Config, exclusions: Mapping[Key, str]) -> list[Finding]:
    findings = []
    unknown = set(exclusions)
    for content in examined:
        for pair in content.pairs[config.contours]:
            if pair.key in exclusions:
                unknown.remove(pair.key)
                detail = f"left out by --exclude: {exclusions[pair.key] or 'no reason given'}"
                findings.append(Finding("excluded", "pair", pair.contour_path, detail, *pair.key))
    for study_id, number in sorted(unknown):
        _log.warning("--exclude names %s, %d, but there is no such pair", study_id, number)
    return findings


def _outside(kept: Mapping[ContourKind, Iterable[Pair]]) -> dict[Key, float]:
    """Share of each i-contour's area outside its o-contour, where there are both."""
    outer = {pair.key: pair.polygon for pair in kept["o"]}
    return {pair.key: polygons.share_outside(pair.polygon, outer[pair.key]) for pair in kept["i"] if pair.key in outer}


def _check(
    kept: Mapping[ContourKind, Sequence[Pair]], examined: Iterable[Examined], outside: Mapping[Key, float]
) -> list[Finding]:
    """What only all studies together show, before any pixel is read."""
    both = [*kept["i"], *kept["o"]]
    digests = {path: digest for content in examined for path, digest in content.digests.items()}
    copies = [finding for pairs in kept.values() for finding in checks.duplicate_contours(pairs, outside)]
    wrong = {finding.path for finding in copies if finding.level == "error"}
    copied = {pair.key: pair.contour_path for pair in kept["o"] if pair.contour_path in wrong}
    return [
        *checks.duplicate_images(both, digests),
        *copies,
        *checks.not_nested(kept["i"], outside, copied),
        *checks.self_intersecting(both),
    ]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """What the findings of level error leave out: files by path, whole pairs by study and number."""

    paths: frozenset[str]
    keys: frozenset[tuple[str, int | None]]

    @classmethod
    def of(cls, errors: Sequence[Finding]) -> Rejected:
        """From findings, all of level error."""
        return cls(
            frozenset(finding.path for finding in errors),
            frozenset((finding.study_id, finding.instance_number) for finding in errors if finding.kind == "pair"),
        )

    def others(self, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs that are not left out."""
        return [
            pair
            for pair in pairs
            if pair.key not in self.keys and not self.paths & {pair.contour_path, pair.image_path}
        ]


def _write_study(
    source: Source,
    content: Examined,
    inner: Sequence[Pair],
    config: Config,
    records: RecordsWriter,
    split_of: Mapping[str, str],
    outside: Mapping[Key, float],
    found: audit.Audit,
    bar: tqdm.tqdm[None],
) -> tuple[list[PairRow], StudyRow]:
    """Writes the pairs of a study that ``split_of`` names by contour path, and measures the study by its i-contours."""
    rows = {pair.contour_path: measurements.unmeasured(pair, outside) for pair in content.pairs[config.contours]}
    registration = Registration()
    failed = set()
    for pair in [*content.pairs[config.contours], *(() if config.contours == "i" else inner)]:
        split = split_of.get(pair.contour_path)
        if split is None and pair.kind == config.contours:
            continue
        try:
            image, mask = read_pair(source, pair, config.contour_origin, config.max_image_pixels)
            if split is not None:
                bar.update()
                records.write(split, pair, values.to_dtype(image, records.image_dtype, pair.image_path), mask)
                rows[pair.contour_path] = measurements.measured(rows[pair.contour_path], image, mask)
            if pair.kind == "i":
                registration.add(image, mask)
        except InputError as error:
            found.add(left_out(pair, error))
            failed.add(pair.key)
    inner = [pair for pair in inner if pair.key not in failed]
    spacing = measurements.slice_spacing_mm(content.headers, content.places)
    volumes = Volumes.of(((pair, polygons.area(pair.polygon)) for pair in inner), spacing)
    written = sum(row.written for row in rows.values())
    row = measurements.study_row(
        content.study, content.headers, content.places, written, spacing, registration, volumes
    )
    found.add(checks.volume_order(inner, volumes))
    if inner:
        found.add(checks.misregistered(row, inner[0].contour_path.rpartition("/")[0], config.contour_origin))
    return list(rows.values()), row


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


def _listing(message: str, config: Config, found: audit.Audit) -> InputError:
    """An error that ends the job, with the first of the findings that led to it: no audit is published then."""
    errors = found.of_level("error")
    lines = [f"  {finding.reason}: {finding.path}: {finding.detail}" for finding in errors[:10]]
    if len(errors) > len(lines):
        lines.append(f"  … and {len(errors) - len(lines)} more")
    return InputError(str(config.data_dir), "\n".join([message, *lines]))
