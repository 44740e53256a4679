"""An output in a store, which has no locks and cannot rename several objects in one step.

Everything that a job writes begins with its token, so it replaces nothing of another job. Readers find it by the
manifest, which is one object: the moment when it is written is the moment of publication. Two files also get copies
under the names that TFDS needs, after that.

A job that writes has a claim, an object that it writes again every few seconds. Another job watches it: if it changes,
the job lives, and the other one ends. If it does not change for a minute, the job is dead, and what it left is removed.
Objects with a token that have no claim and that the manifest does not name are left from a dead job, too.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from preprocess import interrupts, urls
from preprocess.findings import FatalInputError
from preprocess.output import publication
from preprocess.output.destinations import Objects
from preprocess.urls import Url

_log = logging.getLogger(__name__)

_BEAT_S = 10
"""A job writes its claim again after these seconds."""

SILENCE_S = 60
"""A job whose claim stays the same for these seconds is dead. Long enough for some failed requests in a row."""

_POLL_S = 1

_CLEANING_S = 30
"""A job that ends without publishing waits at most these seconds for its objects to be removed."""

_CLAIM = re.compile(r"claim-([0-9a-f]{16})")
_OF_JOB = re.compile(r"job-([0-9a-f]{16})-.+")


@contextlib.contextmanager
def claimed(url: Url, overwrite: bool) -> Iterator[Stored]:
    """Claims a folder of a store for the length of a ``with`` block.

    Args:
        url: of the folder.
        overwrite: it may hold records already.

    Yields:
        The output. What is not published at the end is removed; after a kill, the next job removes it.

    Raises:
        FatalInputError: the folder must not be replaced, cannot be written, or another job is writing it.
    """
    if glob.has_magic(url.path):
        raise FatalInputError(str(url), "has *, ? or [ in its name, where patterns begin; choose another --output_dir")
    output = Stored(url, overwrite)
    interrupts.hold()
    with interrupts.interruptible():
        output.wait_for_others()
    try:
        with interrupts.interruptible():
            output.claim()
        yield output
    finally:
        output.release()


def existing(url: Url) -> DatasetInfo | None:
    """The manifest of the records in a folder; None if there is none.

    Raises:
        FatalInputError: it is damaged, or the store does not say.
    """
    content = _manifest(url)
    if content is None:
        return None
    try:
        return DatasetInfo.parse(content, str(url / schema.MANIFEST_FILE))
    except RecordsError as error:
        raise FatalInputError(str(url), publication.NOT_RECORDS) from error


class Stored:
    """A folder of a store as the output of this job.

    Args:
        url: of the folder.
        overwrite: it may hold records already.
    """

    def __init__(self, url: Url, overwrite: bool) -> None:
        self._url, self._overwrite = url, overwrite
        self._job = secrets.token_hex(8)
        self._everything, self._claims = Objects(url, ""), Objects(url, "claim-")
        self.records = Objects.of_job(url, self._job)
        self.staging = self.records
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None
        # Whether the objects of this job are records, or may be.
        self._published = False

    def wait_for_others(self) -> None:
        """Waits until no other job has a claim; removes the claim of a dead one.

        Raises:
            FatalInputError: another job lives.
        """
        first = self._others()
        if first:
            _log.warning("%s: waiting at most %d s for a sign of life of another job", self._url, SILENCE_S)
        end = time.monotonic() + SILENCE_S
        while others := self._others():
            if any(others[name] != first.get(name) for name in others):
                raise FatalInputError(str(self._url), publication.BUSY)
            if time.monotonic() > end:
                self._everything.remove(others)
                return
            time.sleep(_POLL_S)

    def claim(self) -> None:
        """Claims the folder, and removes what dead jobs left.

        Raises:
            FatalInputError: as :func:`claimed`.
        """
        self._beat(0)
        self._beating = threading.Thread(target=self._beat_on, name="claim of the output", daemon=True)
        self._beating.start()
        others = self._others()
        if others:
            # A job that started at the same moment, and sees this claim, too: the first in the order of tokens stays.
            if min(others) < self._claim_name:
                raise FatalInputError(str(self._url), publication.BUSY)
            self.wait_for_others()
        leftovers = self._check()
        if leftovers:
            self._everything.remove(leftovers)
            _log.info("%s: leftovers of a killed job removed", self._url)

    def publish(self, info: DatasetInfo) -> None:
        with interrupts.interruptible():
            former = existing(self._url)
            self._check()
            self._check_complete(info)
        self._put(info.dump())
        try:
            for name in info.copies:
                Objects(self._url, "").write(name, self.records.read(name))
            self._everything.remove(_named(former) - _named(info))
        except FatalInputError as error:
            _log.warning("%s. The records are published, but TFDS' copies or the removal of former ones failed", error)

    def release(self) -> None:
        """Ends the claim. Removes what this job wrote, unless it is published."""

        def clean() -> None:
            with contextlib.suppress(FatalInputError):
                if self._beating:
                    self._beating.join()
                if not self._published:
                    self.records.remove(self.records.listed())
                self._claims.remove([self._claim_name])
                cleaned.set()

        cleaned = threading.Event()
        self._ended.set()
        # Not in this thread: a store that does not answer must not keep an interrupted job from ending.
        cleaning = threading.Thread(target=clean, name="removal of leftovers", daemon=True)
        cleaning.start()
        cleaning.join(_CLEANING_S)
        if not cleaned.is_set():
            _log.warning("%s: leftovers cannot be removed; the next job with this --output_dir removes them", self._url)

    @property
    def _claim_name(self) -> str:
        return f"claim-{self._job}"

    def _beat_on(self) -> None:
        beat = 0
        while not self._ended.wait(_BEAT_S):
            beat += 1
            # A beat that fails is a beat that is missed.
            with contextlib.suppress(FatalInputError):
                self._beat(beat)

    def _beat(self, number: int) -> None:
        """Writes the claim; its content differs from that of the last one."""
        self._claims.write(self._job, f"A job of {schema.FORMAT_NAME} writes here: {number}\n".encode("ascii"))

    def _others(self) -> dict[str, Any]:
        """What the store says of the claims of other jobs."""
        found = self._claims.listed()
        return {name: entry for name, entry in found.items() if _CLAIM.fullmatch(name) and name != self._claim_name}

    def _check(self) -> list[str]:
        """Checks that the folder holds nothing, or records that may be replaced.

        Returns:
            The objects that dead jobs left.
        """
        # The manifest is read after the listing: meanwhile, another job may end and publish what was listed.
        found = self._everything.listed()
        info = existing(self._url)
        if info and not self._overwrite:
            raise FatalInputError(str(self._url), publication.EXISTS)
        named = _named(info)
        claims = {match[1] for match in map(_CLAIM.fullmatch, found) if match}
        of_jobs = {name: match[1] for name in found if (match := _OF_JOB.fullmatch(name)) and name not in named}
        others = {name: True for name in found if name not in of_jobs and not _CLAIM.fullmatch(name)}
        if info:
            publication.check_only_named(self._url, info, others)
        elif others:
            raise FatalInputError(str(self._url), publication.NOT_RECORDS if self._overwrite else publication.EXISTS)
        return [name for name, job in of_jobs.items() if job not in claims]

    def _check_complete(self, info: DatasetInfo) -> None:
        """Checks that all files of a manifest are there, and the claim; another job may take this one for dead."""
        found = {name: entry["size"] for name, entry in self.records.listed().items()}
        sizes = {shard.name: shard.bytes for split in info.splits.values() for shard in split.shards}
        sizes |= {name: file.bytes for name, file in info.files.items()}
        if self._claim_name not in self._claims.listed() or any(found.get(name) != sizes[name] for name in sizes):
            detail = (
                "another job or program removed what this job wrote; run the job again once nothing else writes there"
            )
            raise FatalInputError(str(self._url), detail)

    def _put(self, manifest: bytes) -> None:
        """Writes the manifest: from then on, the objects of this job are the records."""
        try:
            self._everything.write(schema.MANIFEST_FILE, manifest)
        except FatalInputError as error:
            # The answer may be lost, and not the request. If the store does not say, nothing may be removed.
            self._published = True
            self._published = _manifest(self._url) == manifest
            if not self._published:
                raise error
        self._published = True


def _named(info: DatasetInfo | None) -> set[str]:
    """What a manifest names."""
    if info is None:
        return set()
    return {*info.files, *info.copies, *(shard.name for split in info.splits.values() for shard in split.shards)}


def _manifest(url: Url) -> bytes | None:
    """The content of the manifest; None if there is none."""
    with urls.writing(url):
        try:
            return bytes(urls.filesystem(url).cat_file(f"{url.path}/{schema.MANIFEST_FILE}"))
        except FileNotFoundError:
            return None
