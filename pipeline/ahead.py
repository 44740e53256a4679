"""Which shards of a store to fetch before they are needed."""

from __future__ import annotations

import collections
import threading
from collections.abc import Collection, Iterator

from pipeline.shards import CachedShards

# Batches in the order that are looked at when one is read, and in all.
_MOST_LOOKED_AT, _MOST_BATCHES = 64, 4096


class Ahead:
    """Brings the shards of coming batches ahead of their use.

    It looks as far ahead as the cache has room for all shards from the batch that is being read on. If the cache has
    no room for those of two batches, nothing is brought ahead.

    Args:
        shards: the shards.
        batches: the records of each batch, and its shards, in the order in which they will be read.
    """

    def __init__(self, shards: CachedShards, batches: Iterator[tuple[int, Collection[int]]]) -> None:
        self._shards, self._batches = shards, batches
        # Those from the one that is being read on, with the number of records up to the end of each.
        self._window: collections.deque[tuple[int, Collection[int]]] = collections.deque()
        self._uses: collections.Counter[int] = collections.Counter()
        self._seen = self._started = 0
        self._next = next(batches, None)
        self._lock = threading.Lock()

    def advance(self, records: int) -> None:
        """Reports that the next ``records`` records are going to be read; the ones before have been."""
        # Two iterators of TensorFlow over one data set may come here at the same time.
        if not self._lock.acquire(blocking=False):
            return
        try:
            while self._window and self._window[0][0] <= self._started:
                self._uses -= collections.Counter(self._window.popleft()[1])
            self._started += records
            for _ in range(_MOST_LOOKED_AT):
                if self._next is None or not self._taken(*self._next):
                    return
                self._next = next(self._batches, None)
        finally:
            self._lock.release()

    def _taken(self, records: int, numbers: Collection[int]) -> bool:
        """Takes the next batch into the window, unless it has to wait."""
        more = [number for number in numbers if number not in self._uses]
        if self._seen >= self._started:
            # The reader itself fetches what it reads now.
            all_are_there = len(self._uses) == len(self._shards)
            if all_are_there or len(self._window) >= _MOST_BATCHES or not self._shards.fit({*self._uses, *more}):
                return False
            if not all(map(self._shards.holds, more)):
                # It keeps them in the cache when another one is fetched.
                self._shards.use(self._uses)
            if not all(self._shards.bring(number) for number in more):
                return False
        self._seen += records
        self._window.append((self._seen, numbers))
        self._uses.update(numbers)
        return True
