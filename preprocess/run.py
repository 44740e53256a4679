"""The whole job: a plan of what is written where, and its execution."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Set

from pipeline import schema
from pipeline.manifest import DatasetInfo
from preprocess import engines, tables
from preprocess.config import Config
from preprocess.engines import Engine
from preprocess.findings import COLUMNS, Audit, Finding, Level, Reason, counts
from preprocess.inputs import sources
from preprocess.inputs.exclusions import read_exclusions
from preprocess.interrupts import interruptible
from preprocess.model import Key
from preprocess.output import outputs, publication, splits, writer
from preprocess.output.destinations import Destination
from preprocess.output.writer import RecordSpec, Shard
from preprocess.plan import Plan, make_plan, stopped_by
from preprocess.quality.measurements import PairRow, StudyRow
from preprocess.stages.render import StudyTables, complete, render, tasks
from preprocess.terminal import progress

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        records: pairs written, by split.
        left_out: pairs, studies and other inputs that an error left out, by reason.
        harmless: errors that left nothing out, by reason: those about outer contours when inner ones are written.
        warnings: warnings of the audit, by reason.
        excluded: pairs that ``--exclude`` left out.
        audit: name of the file with all of these.
    """

    records: Mapping[str, int]
    left_out: Mapping[str, int]
    harmless: Mapping[str, int]
    warnings: Mapping[str, int]
    excluded: int
    audit: str


def run(config: Config) -> Summary:
    """Reads, pairs, draws, audits and writes; publishes a complete records directory or nothing.

    Raises:
        FatalInputError: nothing can be published; the message says why.
    """
    exclusions = read_exclusions(config.exclude, config.contours) if config.exclude else {}
    misspelled = splits.misspelled(config.split)
    if misspelled:
        _log.warning("--split names a split %s; did you mean train?", misspelled)
    audit = Audit()
    with outputs.opened(config.output_dir, config.overwrite) as output:
        with (
            sources.unchanged(config.data_dir) as source,
            engines.engine(config, output.staging) as engine,
            interruptible(),
        ):
            plan = make_plan(source, config, exclusions, engine, audit)
            info = write(plan, config, engine, output.records, audit)
        output.publish(info)
    return Summary(
        records={name: split.count for name, split in info.splits.items()},
        left_out=counts(audit.left_out()),
        harmless=counts(finding for finding in audit.of_level(Level.ERROR) if not finding.left_out),
        warnings=counts(audit.of_level(Level.WARNING)),
        excluded=counts(audit.of_level(Level.INFO)).get(Reason.EXCLUDED, 0),
        audit=info.names[schema.AUDIT_FILE],
    )


def write(plan: Plan, config: Config, engine: Engine, destination: Destination, audit: Audit) -> DatasetInfo:
    """Writes all of a records directory, except for the manifest, which it returns."""
    spec = RecordSpec(plan.shape, plan.dtype, schema.LABEL_CLASSES if config.contours == "io" else ())
    shards, studies = _render(plan, spec, config, engine, destination, audit)
    pair_rows: list[PairRow] = []
    study_rows = []
    for pairs, row, findings in engine.map(complete, studies):
        pair_rows += pairs
        study_rows.append(row)
        audit.add(_after_exclusions(finding, plan.excluded) for finding in findings)
    split_of = plan.split_of
    written = {(pair.study_id, pair.instance_number) for pair in pair_rows if pair.written}
    audit.settle(config.contours, plan.contours - written)
    empty = plan.splits.keys() - {split_of[study_id] for study_id, _ in written}
    if empty:
        raise stopped_by(
            f"no image could be paired with a contour in split {', '.join(sorted(empty))}",
            config,
            audit.of_level(Level.ERROR),
        )
    if config.strict and audit.left_out():
        raise stopped_by("not published: errors left inputs out, and --strict is set", config, audit.left_out())
    files = {
        schema.AUDIT_FILE: tables.dump(COLUMNS, audit.rows()),
        schema.PAIRS_FILE: _table(PairRow, pair_rows),
        schema.STUDIES_FILE: _table(StudyRow, study_rows),
    }
    measured = {(row.study_id, row.instance_number): vars(row) for row in pair_rows}
    with publication.writing(config.output_dir):
        return writer.complete(destination, spec, shards, plan.splits, plan.settings, files, measured)


def _after_exclusions(finding: Finding, excluded: Set[Key]) -> Finding:
    """A finding of the measurements, which also says if its pair is left out by ``--exclude``."""
    if (finding.study_id, finding.instance_number) not in excluded:
        return finding
    return dataclasses.replace(finding, detail=f"{finding.detail}; its pair is left out by --exclude")


def _render(
    plan: Plan, spec: RecordSpec, config: Config, engine: Engine, destination: Destination, audit: Audit
) -> tuple[list[Shard], list[StudyTables]]:
    """Lets workers write the record of every pair that can be decoded and drawn.

    Returns:
        The shards, and the tables of each study.
    """
    studies = {selection.summary.study_id: StudyTables(selection) for selection in plan.selections}
    items = tasks(plan.selections, plan.split_of, spec, config, destination)
    shards = []
    with progress(sum(plan.counts.values()), "records") as bar:
        for task, rendered in zip(items, engine.map(render, items), strict=True):
            bar.update(len(task.pairs) if task.destination else 0)
            audit.add(rendered.findings)
            if rendered.shard:
                shards.append(rendered.shard)
            for study_id, measured in rendered.studies.items():
                studies[study_id].add(measured)
    return shards, list(studies.values())


def _table(kind: type[PairRow] | type[StudyRow], rows: Iterable[PairRow | StudyRow]) -> bytes:
    return tables.dump([field.name for field in dataclasses.fields(kind)], (vars(row).values() for row in rows))
