"""Maps the shards of a split into memory, a limited number of them at a time."""

from __future__ import annotations

import concurrent.futures
import fcntl
import itertools
import math
import mmap
import os
import resource
import signal
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.directory import FileInfo, RecordsDirectory
from pipeline.errors import RecordsError
from pipeline.remote import RemoteDirectory

_State = tuple[int, int, int]

_MOST_OPEN = 256

# Between two records of a shard's use in the cache. Each takes 10 µs, and a batch of 8 needs up to 8 shards.
_SECONDS_BETWEEN_USES = 1.0

# Shards that are fetched ahead at the same time. More requests may be under way: those that a reader waits for.
_MOST_AHEAD = 4


class Shard(NamedTuple):
    """A shard's memory map, its bytes as an array: uint8 ``(bytes,)``, and the descriptor that has a lease on it."""

    content: mmap.mmap
    octets: npt.NDArray[np.uint8]
    leased: int | None

    @classmethod
    def of(cls, file: BinaryIO, lease: bool = False) -> Self:
        """Maps an open file; a lease on it lasts as long as the map."""
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        descriptor = None
        if lease:
            descriptor = os.dup(file.fileno())
            weakref.finalize(content, os.close, descriptor).atexit = False
        return cls(content, np.frombuffer(content, np.uint8), descriptor)

    @property
    def is_wanted(self) -> bool:
        """Whether a process waits for the end of the lease, to write to the shard or to cut it, or has waited."""
        return self.leased is not None and fcntl.fcntl(self.leased, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def prefetch(self, offset: int, size: int) -> None:
        """Asks the system to read these bytes ahead.

        A disk is about twice as fast when the records of a batch are requested at once, and a page fault alone would
        read far more than a record. When the bytes are in the page cache, the request only costs time.
        """
        page = offset - offset % mmap.PAGESIZE
        self.content.madvise(mmap.MADV_WILLNEED, page, offset + size - page)


class Shards:
    """Maps shards into memory when they are first needed, and keeps the latest ones mapped.

    A map takes two descriptors. At most 256 maps stay open, and they take at most a quarter of the descriptors that the
    process may open. A batch that needs more shards than a quarter of that is read in groups, so with four reading
    threads maps take at most half of the process's descriptors.

    Whoever touches a page of a map that lies behind the end of its file is ended by the system (SIGBUS). Therefore a
    map has a lease on its file (``F_SETLEASE`` in fcntl(2)): a process that wants to cut the shard or to open it for
    writing waits until it is unmapped, or for the seconds in ``/proc/sys/fs/lease-break-time`` (45). There is no lease
    if the file belongs to another user or is open for writing, and on most network file systems.

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
            self._states: list[_State | None] = [_state(directory.stat(name)) for name in names]
        except OSError as error:
            raise RecordsError(
                f"{directory.location(error.filename)}: {error.strerror}; write the records again"
            ) from error
        self._limit = _limit()
        self._mapped: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a process that gets a copy makes its own."""
        return {**self.__dict__, "_mapped": {}}

    def __getitem__(self, number: int) -> Shard:
        """A shard in memory; checks that its file is unchanged since the split was opened.

        Raises:
            RecordsError: it changed or cannot be opened, or a process waits to change it.
        """
        name = self._names[number]
        shard = self._mapped.get(number)
        try:
            if shard is not None:
                if shard.is_wanted:
                    # Unmapped and not mapped again, so that the other process can go on.
                    del shard
                    self._mapped.pop(number, None)
                    self._states[number] = None
                    raise self.fault(number, "the shard is being changed by another process")
                self._check_unchanged(number, self._directory.stat(name))
                return shard
            with self._directory.open(name) as file:
                # Before the check: from then on the file stays as it is.
                lease = _lease(file.fileno())
                self._check_unchanged(number, os.fstat(file.fileno()))
                shard = Shard.of(file, lease)
        except FileNotFoundError as error:
            raise self.fault(number, "the shard was removed, or its directory replaced, after it was opened") from error
        except OSError as error:
            raise self.fault(number, str(error)) from error
        _keep(self._mapped, number, shard, self._limit)
        return shard

    def opened(self, numbers: Collection[int]) -> dict[int, Shard]:
        """Several shards in memory.

        Raises:
            RecordsError: as for one.
        """
        return {number: self[number] for number in numbers}

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
        return _rows_by_group(numbers, {number: place // most for place, number in enumerate(sorted(distinct))})

    def fault(self, number: int, what: str) -> RecordsError:
        """An error about a shard."""
        location = self._directory.location(self._names[number])
        return RecordsError(f"{location}: {what}; see python -m pipeline.verify {self._directory.path}")

    def _check_unchanged(self, number: int, status: os.stat_result) -> None:
        if _state(status) != self._states[number]:
            raise self.fault(number, "the shard changed after it was opened")


class CachedShards:
    """Maps the shards of a directory in a store, as :class:`Shards` does those of a local one.

    A shard that the cache does not hold is fetched when it is first needed, several at the same time. What the cache
    removes to make room, this process does not keep mapped, so that its space on the disk is free.

    Args:
        directory: the records directory.
        files: sizes and digests of the shards by name.

    Raises:
        RecordsError: the cache is too small for one of them.
    """

    def __init__(self, directory: RemoteDirectory, files: Mapping[str, FileInfo]) -> None:
        self._directory = directory
        self._names, self._files = tuple(files), tuple(files.values())
        for name, file in files.items():
            directory.check_fits(name, file)
        self._limit = _limit()
        self._mapped: dict[int, Shard] = {}
        self._last_use: dict[int, float] = {}
        # By process, too: the threads that fetch are not there in a process that was forked.
        self._coming: dict[tuple[int, int], concurrent.futures.Future[None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a process that gets a copy makes its own."""
        return {**self.__dict__, "_mapped": {}, "_last_use": {}, "_coming": {}}

    def opened(self, numbers: Collection[int]) -> dict[int, Shard]:
        """Several shards in memory.

        Raises:
            RecordsError: one cannot be fetched, or is not the one that the manifest names.
        """
        found = {number: shard for number in numbers if (shard := self._mapped.get(number)) is not None}
        if len(found) == len(numbers):
            self._use_again(numbers)
        while len(found) < len(numbers):
            missing = []
            # These first: a use keeps them in the cache when the others are fetched.
            for number in numbers:
                shard = self._mapped.get(number)
                if shard is not None:
                    self._directory.use(self._files[number])
                elif self._directory.holds(self._files[number]):
                    shard = self._fetch(number)
                if shard is not None:
                    found[number] = shard
                elif number not in found:
                    missing.append(number)
            for future in [self._fetching(number) for number in missing]:
                future.result()
        return found

    def bring(self, number: int) -> bool:
        """Lets a thread fetch a shard that will be needed; returns whether it could, because few are being fetched."""
        if self.holds(number):
            self._use_again([number])
        elif len(self._coming) >= _MOST_AHEAD:
            return False
        else:
            self._fetching(number)
        return True

    def holds(self, number: int) -> bool:
        """Whether a shard need not be fetched."""
        return number in self._mapped or self._directory.holds(self._files[number])

    def use(self, numbers: Collection[int]) -> None:
        """Counts a use of shards, so that the cache keeps them longer."""
        for number in numbers:
            self._directory.use(self._files[number])

    def _use_again(self, numbers: Collection[int]) -> None:
        """As :meth:`use`, but a shard counts once a second: for where nothing is fetched that needs its room."""
        now = time.monotonic()
        for number in numbers:
            if now - self._last_use.get(number, -math.inf) >= _SECONDS_BETWEEN_USES:
                self._last_use[number] = now
                self.use([number])

    def fit(self, numbers: Collection[int]) -> bool:
        """Whether the cache has room for these shards at the same time."""
        return sum(self._files[number].bytes for number in numbers) <= self._directory.cache_bytes

    def shortage(self, numbers: Collection[int], batches: int, batch_size: int) -> str | None:
        """What a cache without room for all these shards costs in a shuffled epoch; None if it has room."""
        if self.fit(numbers):
            return None
        size, room = sum(self._files[number].bytes for number in numbers), self._directory.cache_bytes
        # The part of the shards that a batch needs, if its records are drawn independently and shards are equal, times
        # the part of them that is not in the cache.
        fetched = (1 - (1 - 1 / len(numbers)) ** batch_size) * (1 - room / size)
        return (
            f"{self._directory.path}: the cache holds at most {room} bytes, but these records are in shards of {size} "
            f"bytes, so a shuffled epoch fetches up to {max(1, batches * fetched):.0f} times as much; pass a Records "
            f"with cache_bytes={size} or more, or shuffle=False"
        )

    def __len__(self) -> int:
        return len(self._files)

    def _fetching(self, number: int) -> concurrent.futures.Future[None]:
        """Done when a thread has fetched and mapped a shard."""
        key = os.getpid(), number
        future = self._coming.get(key)
        if future is None:

            def fetch() -> None:
                self._fetch(number)

            # Two threads may come here at once. Then both fetch, and the cache lets one of them wait.
            future = self._coming[key] = self._directory.start(fetch)
            future.add_done_callback(lambda _: self._coming.pop(key, None))
        return future

    def _fetch(self, number: int) -> Shard:
        with self._directory.open(self._names[number], self._files[number], self._drop_removed) as file:
            shard = Shard.of(file)
        _keep(self._mapped, number, shard, self._limit)
        return shard

    def _drop_removed(self) -> None:
        """Unmaps the shards that the cache has removed; a thread that reads one keeps it until it has read it."""
        for number in list(self._mapped):
            if not self._directory.holds(self._files[number]):
                self._mapped.pop(number, None)

    def grouped(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        """Groups rows as :meth:`Shards.grouped`; the cache has room for all shards of a group.

        The first groups have the shards that the cache holds, because fetching the others removes them.
        """
        most, distinct = max(1, self._limit // 4), set(numbers)
        if len(distinct) <= most and self.fit(distinct):
            return [range(len(numbers))]
        held = {number: self._directory.holds(self._files[number]) for number in distinct}
        group: dict[int, int] = {}
        latest, count, size = 0, 0, 0
        for number in sorted(held, key=lambda number: (not held[number], number)):
            count, size = count + 1, size + self._files[number].bytes
            if count > most or size > self._directory.cache_bytes:
                latest, count, size = latest + 1, 1, self._files[number].bytes
            group[number] = latest
        return _rows_by_group(numbers, group)

    def fault(self, number: int, what: str) -> RecordsError:
        """An error about a shard."""
        name, held = self._names[number], self._directory.cached(self._files[number])
        return RecordsError(
            f"{self._directory.location(name)}: {what}; remove {held}, so that it is fetched again, or see "
            f"python -m pipeline.verify {self._directory.path}"
        )


def _keep(mapped: dict[int, Shard], number: int, shard: Shard, limit: int) -> None:
    """Keeps a shard mapped, and at most ``limit`` of them: the ones that were mapped last."""
    mapped[number] = shard
    # Each of these steps on a dict is atomic; those of an OrderedDict are not, because closing a map lets other threads
    # run. A lock would also work, but if a process forks while another thread has the lock, it stays locked in the new
    # process.
    for oldest in list(mapped)[:-limit]:
        # Another thread may be reading it; it is unmapped when no thread does.
        mapped.pop(oldest, None)


def _rows_by_group(numbers: Sequence[int], group: Mapping[int, int]) -> list[Sequence[int]]:
    """The rows of each group of shards."""

    def group_of(row: int) -> int:
        return group[numbers[row]]

    return [list(rows) for _, rows in itertools.groupby(sorted(range(len(numbers)), key=group_of), key=group_of)]


def _limit() -> int:
    """How many shards may stay open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 8))


def _lease(descriptor: int) -> bool:
    """Takes a lease on a file that is open for reading; returns whether the system gives one."""
    try:
        # The system sends a signal when a process waits for the lease. SIGIO, which it is by default, ends a process
        # that does not handle it; this one is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except (OSError, AttributeError):
        return False
    return True


def _state(status: os.stat_result) -> _State:
    """Values that change when a file is replaced, cut or written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns
