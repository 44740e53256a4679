"""Maps the shards of a split into memory, a limited number of them at a time."""

from __future__ import annotations

import itertools
import mmap
import os
import resource
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.directory import RecordsDirectory
from pipeline.errors import RecordsError

_MOST_OPEN = 256


class Shard(NamedTuple):
    """A shard's memory map, and its bytes as an array: uint8 ``(bytes,)``."""

    content: mmap.mmap
    octets: npt.NDArray[np.uint8]

    def prefetch(self, offset: int, size: int) -> None:
        """Asks the system to read these bytes ahead.

        A disk is about twice as fast when the records of a batch are requested at once, and a page fault alone would
        read far more than a record. When the bytes are in the page cache, the request only costs time.
        """
        page = offset - offset % mmap.PAGESIZE
        self.content.madvise(mmap.MADV_WILLNEED, page, offset + size - page)


class Shards:
    """Maps shards into memory when they are first needed, and keeps the latest ones mapped.

    A map holds a descriptor. At most 256 maps stay open, and at most a quarter of the descriptors that the process may
    open. A batch that needs more shards than a quarter of that is read in groups, so with four reading threads maps
    take at most half of the process's descriptors.

    Args:
        directory: the records directory.
        names: file names of the shards.

    Raises:
        RecordsError: a shard is missing.
    """

    def __init__(self, directory: RecordsDirectory, names: Sequence[str]) -> None:
        self._directory = directory
        self._names = names
        try:
            # Recorded now, so that a change before the shard is first needed is detected, too.
            self._states = [_state(directory.stat(name)) for name in names]
        except OSError as error:
            raise RecordsError(
                f"{directory.path / error.filename}: {error.strerror}; write the records again"
            ) from error
        self._limit = _limit()
        self._mapped: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a process that gets a copy makes its own."""
        return {**self.__dict__, "_mapped": {}}

    def __getitem__(self, number: int) -> Shard:
        """A shard in memory; checks that its file is unchanged since the split was opened.

        Raises:
            RecordsError: it changed or cannot be opened.
        """
        name = self._names[number]
        shard = self._mapped.get(number)
        try:
            if shard is not None:
                self._check_unchanged(number, self._directory.stat(name))
                return shard
            with self._directory.open(name) as file:
                self._check_unchanged(number, os.fstat(file.fileno()))
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise self.fault(number, "the shard was removed, or its directory replaced, after it was opened") from error
        except OSError as error:
            raise self.fault(number, str(error)) from error
        shard = self._mapped[number] = Shard(content, np.frombuffer(content, np.uint8))
        # Each of these steps on a dict is atomic; those of an OrderedDict are not, because closing a map lets other
        # threads run. A lock would also work, but if a process forks while another thread has the lock, it stays locked
        # in the new process.
        for oldest in list(self._mapped)[: -self._limit]:
            # Another thread may be reading it; it is unmapped when no thread does.
            self._mapped.pop(oldest, None)
        return shard

    def grouped(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        """Groups rows by the shards that they need, so that all shards of a group can be open at once.

        Args:
            numbers: each row's shard.

        Returns:
            Groups that together have each row once; a single group, in order, if the rows need few shards.
        """
        distinct = set(numbers)
        most = max(1, self._limit // 4)
        if len(distinct) <= most:
            return [range(len(numbers))]
        group = {number: place // most for place, number in enumerate(sorted(distinct))}

        def group_of(row: int) -> int:
            return group[numbers[row]]

        return [list(rows) for _, rows in itertools.groupby(sorted(range(len(numbers)), key=group_of), key=group_of)]

    def fault(self, number: int, what: str) -> RecordsError:
        """An error about a shard."""
        path = self._directory.path
        return RecordsError(f"{path / self._names[number]}: {what}; see python -m pipeline.verify {path}")

    def _check_unchanged(self, number: int, status: os.stat_result) -> None:
        if _state(status) != self._states[number]:
            raise self.fault(number, "the shard changed after it was opened")


def _limit() -> int:
    """How many shards may stay open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 4))


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """Values that change when a file is replaced, cut or written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns
