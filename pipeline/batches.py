"""Shuffled batches as NumPy arrays, without TensorFlow."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.errors import RecordsError
from pipeline.opening import OpenSplit, open_split
from pipeline.order import Positions
from pipeline.pixels import ImageDtype

Batch = tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]


def iterate_batches(
    records: str | os.PathLike[str],
    split: str = "train",
    batch_size: int = 8,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    drop_remainder: bool = False,
    start_step: int = 0,
    shard: tuple[int, int] | None = None,
    image_dtype: ImageDtype = "float32",
    standardize: bool = False,
    check_crc: bool = True,
    prefetch: int = 2,
) -> Batches:
    """Batches of images and masks, in a new order over the whole split each epoch.

    Gives the same batches as :func:`pipeline.make_dataset`, bit for bit and in the same order.

    Args:
        records: records directory.
        split: name of the split.
        batch_size: records per batch; the last batch of an epoch may be shorter.
        shuffle: a new permutation of the whole split each epoch; False gives storage order.
        seed: the order is a function of the split's size, the seed and the epoch.
        epochs: None repeats without end.
        drop_remainder: leave out the last batch of an epoch when it is short.
        start_step: the global step to start at. Earlier batches are not read, so resuming a training run costs nothing.
        shard: ``(index, count)``, this worker's disjoint share of every epoch. Shares have equal length: the last
            ``records mod count`` of an epoch's order are dropped.
        image_dtype: ``"float32"``, or None for the stored dtype and values.
        standardize: zero mean and unit variance per image, computed in float64; the divisor is the standard deviation
            or 1/√pixels, whichever is larger (as in ``tf.image.per_image_standardization``).
        check_crc: verify each record's CRC-32C.
        prefetch: batches that a background thread prepares ahead; 0 for none.

    Returns:
        An iterable of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool
        of that shape. Both are new, writable arrays. Each iteration gives the same sequence; with finite ``epochs``,
        ``len`` gives the number of batches from ``start_step`` on.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range. While
            iterating: a record is damaged; the message names shard, record and byte offset.
    """
    if prefetch < 0:
        raise RecordsError(f"prefetch is {prefetch}, at least 0 expected")
    opened = open_split(
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
        check_crc=check_crc,
    )
    return Batches(opened, prefetch)


class Batches:
    """The iterable that :func:`iterate_batches` returns."""

    def __init__(self, opened: OpenSplit, prefetch: int) -> None:
        self._reader = opened.reader
        self._schedule = opened.schedule
        self._conversion = opened.conversion
        self._image_shape = opened.info.image_shape
        self._read_dtype = opened.conversion.read_dtype(opened.info.image_dtype)
        self._prefetch = prefetch

    def __len__(self) -> int:
        """Batches from ``start_step`` to the end.

        Raises:
            TypeError: ``epochs`` is None, so the batches have no end.
        """
        if self._schedule.steps is None:
            raise TypeError(
                "epochs=None never ends and has no len; one epoch has DatasetInfo.split(name).steps_per_epoch()"
            )
        return self._schedule.steps

    def __iter__(self) -> Iterator[Batch]:
        if self._prefetch == 0:
            for positions in self._schedule.batches():
                yield self._read(positions, *self._arrays(positions))
            return
        process = os.getpid()
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="iterate_batches") as background:
            remaining = self._schedule.batches()
            waiting: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
            try:
                while True:
                    for positions in itertools.islice(remaining, self._prefetch + 1 - len(waiting)):
                        # Allocated in this thread: the C library gives each thread its own memory, and this thread's
                        # is warm.
                        waiting.append(background.submit(self._read, positions, *self._arrays(positions)))
                    if not waiting:
                        return
                    yield waiting.popleft().result()
                    if os.getpid() != process:
                        raise RecordsError("this iterator was started before a fork; call iter() in the new process")
            finally:
                background.shutdown(wait=False, cancel_futures=True)

    def _arrays(self, positions: Positions) -> Batch:
        shape = (len(positions), *self._image_shape)
        return np.empty(shape, self._read_dtype), np.empty(shape, np.bool_)

    def _read(self, positions: Positions, images: npt.NDArray[np.generic], masks: npt.NDArray[np.bool_]) -> Batch:
        self._reader.read(positions, images, masks)
        return self._conversion.apply(images), masks
