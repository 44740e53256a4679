"""Shuffled batches as NumPy arrays, without TensorFlow."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import arguments
from pipeline.ahead import Ahead
from pipeline.errors import RecordsError
from pipeline.opening import Opened, open_records
from pipeline.order import Point, Positions
from pipeline.view import Records

Batch = tuple[npt.NDArray[Any], ...]
"""Images and masks, and positions if the caller wants them."""


def iterate_batches(
    records: str | os.PathLike[str] | Records,
    split: str | None = None,
    batch_size: int = 8,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epochs: int | None = 1,
    drop_remainder: bool = False,
    start_step: int = 0,
    shard: tuple[int, int] | None = None,
    image_dtype: npt.DTypeLike | None = "float32",
    standardize: bool = False,
    positions: bool = False,
    check_crc: bool = True,
    prefetch: int = 2,
) -> Batches:
    """Batches of images and masks; each iteration is the next epoch, in a new order over all records.

    Gives the same batches as :func:`pipeline.make_dataset`, bit for bit and in the same order.

    Args:
        records: records directory, its URL, or a :class:`pipeline.Records`.
        split: name of the split of a directory, ``"train"`` by default. A ``Records`` is a selection already.
        batch_size: records per batch; the last batch of an epoch may be shorter.
        shuffle: a new permutation of all records each epoch; False gives storage order, or that of the ``Records``.
        seed: the order is a function of the number of records, the seed and the epoch.
        epochs: of one iteration; None for one that does not end.
        drop_remainder: leave out the last batch of an epoch when it is short.
        start_step: the step to start at, counted over all epochs. Earlier batches are not read, so resuming a training
            run costs nothing.
        shard: ``(index, count)``, this worker's disjoint share of every epoch. Shares have equal length: the last
            ``records mod count`` of an epoch's order are dropped.
        image_dtype: float32, or None for the stored dtype and values.
        standardize: zero mean and unit variance per image, computed in float64; the divisor is the standard deviation
            or 1/√pixels, whichever is larger (as in ``tf.image.per_image_standardization``).
        positions: also give each sample's position in the records, which ``Records.table`` has a row for.
        check_crc: verify each record's CRC-32C.
        prefetch: batches that a background thread prepares ahead; 0 for none.

    Returns:
        An iterable of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool
        of that shape (label maps: uint8); with ``positions``, a third array, int64 ``(batch_size,)``. All are new,
        writable arrays. Each iteration continues with the next epoch (the next ``epochs`` epochs), also after one that
        was left early. ``len`` gives the number of batches of the next iteration. ``state_dict`` and
        ``load_state_dict`` save and restore how far it came.

    Raises:
        TypeError: an argument has the wrong type.
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range. While
            iterating: a record is damaged; the message names shard, record and byte offset.
    """
    prefetch = arguments.whole_number("prefetch", prefetch, 0)
    opened = open_records(
        records,
        split,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        epochs=epochs,
        drop_remainder=drop_remainder,
        start_step=start_step,
        shard=shard,
        image_dtype=image_dtype,
        standardize=standardize,
        positions=positions,
        check_crc=check_crc,
    )
    return Batches(opened, prefetch)


class Batches:
    """The iterable that :func:`iterate_batches` returns."""

    def __init__(self, opened: Opened, prefetch: int) -> None:
        self._opened = opened
        self._prefetch = prefetch
        self._next_start = opened.start
        self._reached = opened.start

    def __len__(self) -> int:
        """Batches of the next iteration.

        Raises:
            TypeError: ``epochs`` is None, so an iteration has no end.
        """
        steps = self._opened.schedule.steps(self._next_start)
        if steps is None:
            raise TypeError("epochs=None never ends and has no len; epochs=1 gives the length of one epoch")
        return steps

    def __iter__(self) -> Iterator[Batch]:
        start = self._reached = self._next_start
        self._next_start = self._opened.schedule.following(start)
        return self.read(functools.partial(self._opened.schedule.batches, start))

    def state_dict(self) -> dict[str, Any]:
        """The point that the latest iteration has reached, as values that JSON can store.

        The point counts for all workers (``shard``) together, if each has given the same number of batches.
        """
        return {**self._identity, **self._reached._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration start where another one stopped, and finish its epoch.

        Batch size and number of workers may differ from then: records that were given are not given again in this
        epoch.

        Raises:
            TypeError: it is not a mapping, lacks an entry, or one is not a whole number.
            RecordsError: it is the state of another order: the number of records, seed or shuffle differs. Or it is not
                a state: more records were given than there are.
        """
        state = arguments.state(state)
        for name, expected in self._identity.items():
            if state.get(name) != expected:
                raise RecordsError(f"the state has {name} {state.get(name)!r}, {expected!r} expected")
        schedule = self._opened.schedule
        point = Point(*(arguments.whole_number(name, state.get(name), 0) for name in Point._fields))
        if point.given > schedule.count:
            raise RecordsError(f"the state has given {point.given}, at most {schedule.count} expected")
        if schedule.steps_left(point) <= 0:
            point = Point(point.epoch + 1, 0)
        self._next_start = self._reached = point

    @property
    def _identity(self) -> dict[str, Any]:
        """What determines the order."""
        schedule = self._opened.schedule
        return {"records": schedule.count, "seed": schedule.seed, "shuffle": schedule.shuffle}

    def read(self, batches: Callable[[], Iterator[tuple[Positions, Point]]]) -> Iterator[Batch]:
        """Yields batches.

        Args:
            batches: returns a new iterator over the positions of each batch, and the point that is reached by it.
        """
        remaining = batches()
        ahead = self._opened.records.ahead(positions for positions, _ in batches())
        if self._prefetch == 0:
            for positions, point in remaining:
                batch = self._read(ahead, positions, *self._arrays(positions))
                self._reached = point
                yield batch
            return
        process, ending = os.getpid(), sys.is_finalizing
        background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="iterate_batches")
        waiting: collections.deque[tuple[concurrent.futures.Future[Batch], Point]] = collections.deque()
        future: concurrent.futures.Future[Batch] | None
        try:
            while True:
                for positions, point in itertools.islice(remaining, self._prefetch + 1 - len(waiting)):
                    # Allocated in this thread: the C library gives each thread its own memory, and this thread's is
                    # warm.
                    future = background.submit(self._read, ahead, positions, *self._arrays(positions))
                    waiting.append((future, point))
                if not waiting:
                    return
                future, point = waiting.popleft()
                batch = future.result()
                self._reached = point
                yield batch
                if os.getpid() != process:
                    raise RecordsError("this iterator was started before a fork; call iter() in the new process")
        finally:
            # An error holds this frame, and so would hold itself and its maps until the garbage is collected.
            future = None
            # An interpreter that ends has joined the thread, and may have deleted the modules that this needs.
            if not ending():
                background.shutdown(cancel_futures=True)

    def _arrays(self, positions: Positions) -> Batch:
        info = self._opened.records.info
        dtype = self._opened.conversion.read_dtype(info.image_dtype)
        count = len(positions)
        return np.empty((count, *info.image_shape), dtype), np.empty((count, *info.mask_shape), info.mask_dtype)

    def _read(
        self, ahead: Ahead | None, positions: Positions, images: npt.NDArray[Any], masks: npt.NDArray[Any]
    ) -> Batch:
        if ahead is not None:
            ahead.advance(len(positions))
        self._opened.records.read(positions, images, masks, self._opened.check_crc)
        images = self._opened.conversion.apply(images)
        # A copy: `positions` is a part of a block of positions.
        return (images, masks, positions.copy()) if self._opened.positions else (images, masks)
