"""The output of a job: a directory of this machine, or a folder of a store."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Collection, Iterator
from typing import Protocol

from pipeline import schema
from pipeline.manifest import DatasetInfo
from preprocess.findings import FatalInputError, counted, some
from preprocess.output import publication, stored
from preprocess.output.destinations import Destination, Directory
from preprocess.urls import Place, Url


class Output(Protocol):
    """An output that a job has claimed."""

    @property
    def records(self) -> Destination:
        """Where the files of the records go."""

    @property
    def staging(self) -> Destination:
        """Where an engine may exchange files with its workers."""

    def publish(self, info: DatasetInfo) -> None:
        """Makes records of what was written to ``records``, in one step.

        Args:
            info: the manifest, which names it.

        Raises:
            FatalInputError: nothing is published. Meanwhile the output was created or changed, or cannot be written.
        """


@contextlib.contextmanager
def opened(place: Place, overwrite: bool) -> Iterator[Output]:
    """Claims an output for the length of a ``with`` block, and removes what is not published at its end.

    Args:
        place: directory to create.
        overwrite: it may exist already, from an earlier run.

    Raises:
        FatalInputError: it must not be replaced, cannot be written, or another job is writing it.
    """
    if isinstance(place, Url):
        with stored.claimed(place, overwrite) as output:
            yield output
    else:
        with publication.claimed(place, overwrite) as partial:
            yield _Local.within(partial, place, overwrite)


def check_studies(place: Place, studies: Collection[str]) -> None:
    """Checks that no study would be lost: records are only replaced by records of the same studies, or of more.

    Args:
        place: directory to create or replace.
        studies: every study that the input names.

    Raises:
        FatalInputError: it holds records of another study.
    """
    info = stored.existing(place) if isinstance(place, Url) else publication.existing(place)
    lost = sorted(set(info.studies).difference(studies)) if info else []
    if lost:
        what = counted(len(lost), "study", "studies")
        detail = f"holds records of {what} that --data_dir does not name ({some(lost)}); {publication.ELSEWHERE}"
        raise FatalInputError(str(place), detail)


@dataclasses.dataclass(frozen=True)
class _Local:
    """A directory of this machine.

    Attributes:
        output_dir: the directory.
        overwrite: it may exist already.
    """

    output_dir: pathlib.Path
    overwrite: bool
    records: Directory
    staging: Directory

    @classmethod
    def within(cls, partial: pathlib.Path, output_dir: pathlib.Path, overwrite: bool) -> _Local:
        """The output whose files lie below ``partial`` until they are published."""
        staging, shards, records = (partial / name for name in ("staging", "shards", "records"))
        with publication.writing(output_dir):
            for folder in (staging, shards, records):
                folder.mkdir()
        return cls(output_dir, overwrite, Directory(records, shards), Directory.at(staging))

    def publish(self, info: DatasetInfo) -> None:
        with publication.writing(self.output_dir):
            self.records.write(schema.MANIFEST_FILE, info.dump())
            publication.publish(self.records.path, self.output_dir, self.overwrite)
