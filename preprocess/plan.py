"""What is written where: every header and contour is read and checked before any pixel is decoded."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from preprocess.config import Config
from preprocess.engines import Engine
from preprocess.findings import Audit, FatalInputError, Finding, Level, Reason, counted
from preprocess.inputs import sources
from preprocess.inputs.exclusions import LEFT_OUT
from preprocess.inputs.sources import Listing
from preprocess.layouts import discovery
from preprocess.model import KINDS, ContourKind, Contours, Key, PlannedPair
from preprocess.output import dtypes, outputs, splits
from preprocess.quality import checks
from preprocess.stages import pairing
from preprocess.stages.load import Examined, examine
from preprocess.stages.render import Selection
from preprocess.terminal import progress

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written where. Headers and contours decide it, before any pixel is decoded.

    Attributes:
        selections: what to make of each study.
        contours: study and number of each contour, or of both, that should become a record: all but the excluded.
        excluded: study and number of the pairs that ``--exclude`` leaves out.
        shape: rows and columns of every image.
        dtype: of every image.
        splits: the studies of each split.
        settings: what the manifest keeps of the settings.
    """

    selections: Sequence[Selection]
    contours: Set[Key]
    excluded: Set[Key]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    splits: Mapping[str, Sequence[str]]
    settings: Mapping[str, Any]

    @property
    def split_of(self) -> dict[str, str]:
        """The split of each study that has pairs to write."""
        return {study_id: name for name, members in self.splits.items() for study_id in members}

    @property
    def counts(self) -> dict[str, int]:
        """How many records each split gets, if every pair can be written."""
        written = {selection.summary.study_id: len(selection.records) for selection in self.selections}
        return {name: sum(written[study_id] for study_id in members) for name, members in self.splits.items()}


def make_plan(source: Listing, config: Config, exclusions: Mapping[Key, str], engine: Engine, audit: Audit) -> Plan:
    """Reads every header and contour, and decides what is written."""
    config = _with_layout(source, config)
    examined = _examine(source, config, engine, audit)
    listed = [_contours(examined, kind, audit) for kind in KINDS if kind in config.contours]
    contours = {key: path for key, path in listed[0].items() if all(key in others for others in listed)}
    if config.contours == "io":
        audit.add(checks.single_contours(*listed))
    audit.add(_excluded(contours, config.contours, exclusions, set().union(*listed)))
    kept: dict[ContourKind, list[PlannedPair]] = {
        kind: [
            pair
            for content in examined
            for pair in content.pairs[kind]
            if kind not in config.contours or pair.key not in exclusions
        ]
        for kind in KINDS
    }
    chosen = [pair for content in examined for pair in pairing.chosen(content.pairs, config.contours)]
    outside = _outside(kept)
    audit.add(_check(kept, outside))
    audit.add(
        finding
        for content in examined
        for finding in content.outlines
        if finding.contour not in config.contours or (finding.study_id, finding.instance_number) not in exclusions
    )
    rejected = Rejected.of(audit.of_level(Level.ERROR))
    usable = rejected.others(pair for pair in chosen if pair.key not in exclusions)
    shape = _commonest_shape(usable)
    pairs, findings = _of_shape(usable, shape)
    audit.add([*findings, *checks.mixed_photometric(pairs)])
    if not pairs:
        raise stopped_by("no image could be paired with a contour", config, audit.of_level(Level.ERROR))
    dtype, exact = dtypes.smallest_dtype(pair.value_range for pair in pairs)
    if not exact:
        _log.warning("some modality values are not integers that float32 can represent: images are rounded to float32")
    return Plan(
        selections=_selections(examined, pairs, rejected, outside, config.contours),
        contours=contours.keys() - exclusions.keys(),
        excluded=frozenset(exclusions),
        shape=shape,
        dtype=dtype,
        splits=splits.assign(config.split, {pair.study_id for pair in pairs}),
        settings={
            **config.output_settings(),
            "exclude": [[study_id, number] for study_id, number in sorted(exclusions)],
            "exact_values": exact,
        },
    )


def _with_layout(source: Listing, config: Config) -> Config:
    """The settings with the layout of the data set in place of ``auto``."""
    try:
        return dataclasses.replace(config, layout=discovery.choose(source, config).layout)
    except ValueError as error:
        raise FatalInputError(source.name, str(error)) from error


def _examine(source: Listing, config: Config, engine: Engine, audit: Audit) -> list[Examined]:
    """Reads the headers and contours of every study."""
    studies, findings = discovery.discover(source, config, engine)
    if config.overwrite:
        absent = (Reason.MISSING_STUDY, Reason.AMBIGUOUS_STUDY)
        missing = {finding.study_id for finding in findings if finding.reason in absent}
        outputs.check_studies(config.output_dir, missing.union(study.study_id for study in studies))
    audit.add(findings)
    _log.info("%s: %s, %s", source.name, counted(len(studies), "study", "studies"), counted(len(source.paths), "file"))
    if studies:
        # A --split that names missing studies is refused before any image is read.
        splits.assign(config.split, {study.study_id for study in studies})
    examined = []
    with progress(sum(len(study.images) for study in studies), "headers") as bar:
        for content in engine.map(examine, studies):
            audit.add(content.findings)
            examined.append(content)
            bar.update(content.summary.images)
            images = counted(content.summary.images, "image")
            pairs = counted(len(pairing.chosen(content.pairs, config.contours)), "pair")
            _log.info("%s: %s, %s", content.summary.study_id, images, pairs)
    return examined


def _contours(examined: Iterable[Examined], kind: ContourKind, audit: Audit) -> dict[Key, str]:
    """The path of every contour of a kind, also of those that cannot be used."""
    damaged = {
        (finding.study_id, finding.instance_number): finding.path
        for finding in audit.of_level(Level.ERROR)
        if finding.contour == kind and finding.instance_number is not None
    }
    listed = {
        (content.summary.study_id, number): path
        for content in examined
        for number, path in content.contours[kind].items()
    }
    return damaged | listed


def _excluded(
    contours: Mapping[Key, str], kinds: Contours, exclusions: Mapping[Key, str], known: Set[Key]
) -> list[Finding]:
    """A finding for each pair that ``--exclude`` leaves out, and for each of its rows that matches no contour.

    Args:
        contours: the path of the contour of each pair, of its i-contour where it has two.
        kinds: what is written.
        exclusions: the reason of each pair to leave out.
        known: study and number of every contour; an image with one of two contours is not a pair, but its row is right.
    """
    findings = []
    contour, what = ("", "contour") if kinds == "io" else (kinds, f"{kinds}-contour")
    for key, reason in exclusions.items():
        if key in contours:
            detail = f"{LEFT_OUT}{reason or 'no reason given'}"
            findings.append(Finding(Reason.EXCLUDED, "pair", contours[key], detail, *key, contour=contour))
        elif key not in known:
            detail = f"the study has no {what} with this number, or the data set has no such study"
            findings.append(Finding(Reason.UNMATCHED_EXCLUSION, "pair", "--exclude", detail, *key))
    return findings


def _outside(kept: Mapping[ContourKind, Iterable[PlannedPair]]) -> dict[Key, float]:
    """Share of each i-contour's area outside its o-contour, where both exist."""
    outer = {pair.key for pair in kept["o"]}
    return {pair.key: pair.outside for pair in kept["i"] if pair.outside is not None and pair.key in outer}


def _check(kept: Mapping[ContourKind, Sequence[PlannedPair]], outside: Mapping[Key, float]) -> list[Finding]:
    """Findings that need all studies, but no pixels."""
    copies = [finding for pairs in kept.values() for finding in checks.duplicate_contours(pairs, outside)]
    wrong = {finding.path for finding in copies if finding.level is Level.ERROR}
    copied = {pair.key: pair.contour_path for pair in kept["o"] if pair.contour_path in wrong}
    return [
        *checks.duplicate_images([*kept["i"], *kept["o"]]),
        *copies,
        *checks.not_nested(kept["i"], outside, copied),
    ]


def _selections(
    examined: Iterable[Examined],
    pairs: Iterable[PlannedPair],
    rejected: Rejected,
    outside: Mapping[Key, float],
    contours: Contours,
) -> list[Selection]:
    """What to make of each study, when ``pairs`` are to be written."""
    written = {pair.key for pair in pairs}
    selections = []
    for content in examined:
        whole = {pair.key for pair in rejected.others(pairing.chosen(content.pairs, "io"))}
        # What is measured between two contours counts where both can be used.
        settled: dict[ContourKind, list[PlannedPair]] = {
            kind: [
                dataclasses.replace(pair, outside=outside.get(pair.key), wall=pair.wall if pair.key in whole else None)
                for pair in of_kind
            ]
            for kind, of_kind in content.pairs.items()
        }
        every = pairing.chosen(settled, contours)
        selections.append(
            Selection(
                summary=content.summary,
                pairs=every,
                records=[pair for pair in every if pair.key in written],
                inner=rejected.others(settled["i"]),
                outer=rejected.others(settled["o"]),
            )
        )
    return selections


@dataclasses.dataclass(frozen=True)
class Rejected:
    """What errors in the audit leave out: files by path, whole pairs by study and number."""

    paths: frozenset[str]
    keys: frozenset[tuple[str, int | None]]

    @classmethod
    def of(cls, errors: Sequence[Finding]) -> Rejected:
        """From findings that all have level error."""
        return cls(
            frozenset(finding.path for finding in errors),
            frozenset((finding.study_id, finding.instance_number) for finding in errors if finding.kind == "pair"),
        )

    def others(self, pairs: Iterable[PlannedPair]) -> list[PlannedPair]:
        """The pairs that are not left out."""
        return [pair for pair in pairs if pair.key not in self.keys and not self.paths & pair.paths]


def _commonest_shape(pairs: Sequence[PlannedPair]) -> tuple[int, int]:
    """The commonest shape of images on the common grid, the smaller of two equally common; (0, 0) without pairs."""
    counts = collections.Counter(pair.grid.shape for pair in pairs)
    return min(counts, key=lambda shape: (-counts[shape], shape), default=(0, 0))


def _of_shape(pairs: Sequence[PlannedPair], common: tuple[int, int]) -> tuple[list[PlannedPair], list[Finding]]:
    """The pairs of one shape, and a finding for each of the others."""
    kept, findings = [], []
    for pair in pairs:
        if pair.grid.shape == common:
            kept.append(pair)
        else:
            detail = "{} × {} pixels, {} × {} expected, as most images have".format(*pair.grid.shape, *common)
            findings.append(Finding(Reason.SIZE_MISMATCH, "pair", pair.image_path, detail, *pair.key))
    return kept, findings


def stopped_by(message: str, config: Config, errors: Sequence[Finding]) -> FatalInputError:
    """An error that ends the job, with the first findings that led to it: no audit is published then."""
    lines = [f"  {finding.reason}: {finding.path}: {finding.detail}" for finding in errors[:10]]
    if len(errors) > len(lines):
        lines.append(f"  … and {len(errors) - len(lines)} more")
    return FatalInputError(sources.name_of(config.data_dir), "\n".join([message, *lines]))
