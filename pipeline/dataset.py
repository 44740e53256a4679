"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "make_dataset needs TensorFlow: pip install tensorflow. iterate_batches gives the same batches without it."
    ) from error

from pipeline.directory import RecordsDirectory
from pipeline.errors import RecordsError
from pipeline.index import Index
from pipeline.manifest import DatasetInfo
from pipeline.order import POSITIONS_IN_BLOCK, Positions, Schedule
from pipeline.pixels import Conversion, ImageDtype
from pipeline.records import RecordReader

# Batches that are made at once, and that wait to be taken: some will be waiting for the disk.
_PARALLEL_BATCHES = 4

# Eigen's EIGEN_MAX_ALIGN_BYTES.
_ALIGNMENT = 64

# There is nothing for AutoGraph to convert in what is mapped, and under Python 3.13 it warns that it cannot.
_as_it_is = tf.autograph.experimental.do_not_convert


def make_dataset(
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
    cache: int = 1 << 30,
) -> tf.data.Dataset:
    """Batches of images and masks, in a new order over the whole split each epoch.

    Gives the same batches as :func:`pipeline.iterate_batches`, bit for bit and in the same order (``standardize``: to
    within 1e-5). Both read records with the same reader, by position; there is no shuffle buffer. The data set owns its
    order: pass ``shuffle=False`` to ``model.fit``.

    The data set reads in this process only: its graph cannot be saved or sent to another process. Nor can
    ``tf.train.Checkpoint`` save its iterator (``FailedPreconditionError``): save the step with the model, and pass it
    as ``start_step`` to go on.

    Args:
        records: records directory.
        split: name of the split.
        batch_size: records to a batch; an epoch's last batch may be shorter.
        shuffle: a new permutation of the whole split each epoch; False gives storage order.
        seed: the order is a function of the split's size, the seed and the epoch.
        epochs: None cycles for ever; give ``model.fit`` its ``steps_per_epoch`` then
            (``DatasetInfo.load(records).splits[split].steps_per_epoch(batch_size)``).
        drop_remainder: leave out an epoch's last batch when it is short.
        start_step: begin at this global step, at no cost: what a resumed training run has already seen is not read.
        shard: ``(index, count)``, this worker's disjoint share of every epoch. Shares have equal length: the last
            ``records mod count`` of an epoch's order are dropped.
        image_dtype: ``"float32"``, or None for the stored dtype, untouched.
        standardize: zero mean and unit variance per image, in float64; the divisor is the standard deviation or
            1/√pixels, whichever is larger (as ``tf.image.per_image_standardization``).
        check_crc: verify each record's CRC-32C when it is read; a record in the cache is not read again.
        cache: bytes of decoded records that may stay in memory. A share that fits is read from disk once, as the
            batches ask for it, and gathered from memory after that; 0 for never.

    Returns:
        A data set of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of
        that shape. Its cardinality is known: infinite, or the batches from ``start_step`` on.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
        tf.errors.InvalidArgumentError: while iterating, a record is damaged, or a shard or the directory was replaced.
            The message contains that of the RecordsError: shard, record and byte offset.
    """
    conversion = Conversion(image_dtype, standardize)
    if cache < 0:
        raise RecordsError(f"cache is {cache}, at least 0 expected")
    directory = RecordsDirectory(records)
    info = DatasetInfo.load(directory)
    schedule = Schedule(
        count=info.split(split).count,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        epochs=epochs,
        drop_remainder=drop_remainder,
        start_step=start_step,
        shard=shard,
    )
    source = _Source(RecordReader(directory, info, Index.load(directory, info, split), check_crc=check_crc), info)
    with tf.device("CPU:0"):
        # Shares move through the whole split from epoch to epoch, so what a worker keeps is the split, not its share.
        fetch = (
            _Cache(source, info, schedule.count).fetch
            if source.decoded_bytes(schedule.count) <= cache
            else source.fetch
        )
    fixed_batch = batch_size if drop_remainder or schedule.share % batch_size == 0 else None

    @_as_it_is
    def load(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if fixed_batch is None:
            positions = tf.boolean_mask(positions, positions >= 0)
        images, masks = fetch(positions)
        images.set_shape((fixed_batch, *info.image_shape))
        masks.set_shape((fixed_batch, *info.mask_shape))
        if conversion.standardize:
            images = _standardized(images)
        elif conversion.image_dtype is not None:
            images = tf.cast(images, tf.float32)
        return images, masks

    batches = (
        _positions(schedule)
        .map(load, num_parallel_calls=_PARALLEL_BATCHES, deterministic=True)
        .prefetch(_PARALLEL_BATCHES)
        .apply(
            tf.data.experimental.assert_cardinality(
                tf.data.INFINITE_CARDINALITY if schedule.steps is None else schedule.steps
            )
        )
    )
    options = tf.data.Options()
    # The shares are made by `shard`; TensorFlow's own would cut the row of blocks, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Nothing is left to be tuned, and an iterator that ends waits for the tuner to wake.
    options.autotune.enabled = False
    return batches.with_options(options)


def _positions(schedule: Schedule) -> tf.data.Dataset:
    """Each batch's record positions, int64 ``(min(batch_size, share),)``, a short batch filled up with -1.

    Python is asked for a block of batches at a time; between those, a batch is TensorFlow's work alone.
    """
    width = min(schedule.batch_size, schedule.share)
    steps_in_block = max(1, POSITIONS_IN_BLOCK // width)

    def block(number: np.int64) -> Positions:
        start_step = schedule.start_step + int(number) * steps_in_block
        batches = dataclasses.replace(schedule, start_step=start_step).batches()
        filled = [
            np.pad(positions, (0, width - len(positions)), constant_values=-1)
            for positions in itertools.islice(batches, steps_in_block)
        ]
        return np.array(filled, np.int64)

    @_as_it_is
    def load(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(block, [number], tf.int64), (None, width))

    blocks = tf.data.Dataset.counter()
    if schedule.steps is not None:
        blocks = blocks.take(math.ceil(schedule.steps / steps_in_block))
    return blocks.map(load).unbatch()


class _Source:
    """Records on disk, as a TensorFlow operation."""

    def __init__(self, reader: RecordReader, info: DatasetInfo) -> None:
        self._reader = reader
        self._image_shape, self._mask_shape = info.image_shape, info.mask_shape
        self._image_dtype, self._mask_dtype = np.dtype(info.image_dtype), info.mask_dtype

    def decoded_bytes(self, count: int) -> int:
        """Memory that ``count`` records take as arrays."""
        pixels = math.prod(self._image_shape)
        return count * pixels * (self._image_dtype.itemsize + self._mask_dtype.itemsize)

    def fetch(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images in the stored dtype and bool masks, both ``(n, H, W, 1)``, at int64 ``(n,)`` positions."""
        # TensorFlow keeps the function that it calls until the process ends; the shards must not stay open that long.
        # The data set refers to this object, and its iterators to the data set.
        method = weakref.WeakMethod(self._read)

        def read(positions: Positions) -> Any:
            alive = method()
            if alive is None:
                # The one error that TensorFlow does not print: batches may be on their way when an iterator is deleted.
                raise StopIteration("the data set that read these records was deleted; keep it, or an iterator of it")
            return alive(positions)

        # The stored dtype: TensorFlow casts without Python's lock.
        images, masks = tf.numpy_function(read, [positions], (self._image_dtype, self._mask_dtype))
        return tf.ensure_shape(images, (None, *self._image_shape)), tf.ensure_shape(masks, (None, *self._mask_shape))

    def _read(self, positions: Positions) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        images = _aligned((len(positions), *self._image_shape), self._image_dtype)
        masks = _aligned((len(positions), *self._mask_shape), self._mask_dtype)
        self._reader.read(positions, images, masks)
        return images, masks


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array that is not filled, at an address that TensorFlow takes without a copy."""
    size = math.prod(shape) * dtype.itemsize
    octets = np.empty(size + _ALIGNMENT, np.uint8)
    start = -octets.ctypes.data % _ALIGNMENT
    return octets[start : start + size].view(dtype).reshape(shape)


class _Cache:
    """Decoded records in memory, filled as they are first asked for."""

    def __init__(self, source: _Source, info: DatasetInfo, count: int) -> None:
        self._source = source
        self._images = _variable(tf.raw_ops.Empty(shape=(count, *info.image_shape), dtype=info.image_dtype, init=False))
        self._masks = _variable(tf.raw_ops.Empty(shape=(count, *info.mask_shape), dtype=tf.bool, init=False))
        self._filled = _variable(tf.zeros(count, tf.bool))

    def fetch(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As :meth:`_Source.fetch`, from memory where the records are there."""
        absent = tf.boolean_mask(positions, ~tf.gather(self._filled, positions))
        filled = tf.cond(tf.size(absent) > 0, lambda: self._fill(absent), lambda: tf.constant(True))
        with tf.control_dependencies([filled]):
            return tf.gather(self._images, positions), tf.gather(self._masks, positions)

    def _fill(self, absent: tf.Tensor) -> tf.Tensor:
        # Two batches of neighboring epochs may bring the same record at once; the bytes are the same.
        images, masks = self._source.fetch(absent)
        stored = [
            self._images.scatter_update(tf.IndexedSlices(images, absent)),
            self._masks.scatter_update(tf.IndexedSlices(masks, absent)),
        ]
        with tf.control_dependencies(stored):
            there = tf.IndexedSlices(tf.ones_like(absent, tf.bool), absent)
            with tf.control_dependencies([self._filled.scatter_update(there)]):
                return tf.constant(True)


def _variable(value: tf.Tensor) -> tf.Variable:
    """A plain variable in host memory; ``tf.raw_ops.Empty`` as its value takes none before it is written to."""

    def make() -> tf.Variable:
        with tf.device("CPU:0"):
            return tf.Variable(value, trainable=False)

    # A strategy's scope, which would mirror it to every device, holds for a thread.
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        return outside.submit(make).result()


def _standardized(images: tf.Tensor) -> tf.Tensor:
    """As :func:`pipeline.pixels.standardized`."""
    values = tf.cast(images, tf.float64)
    values -= tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    deviation = tf.math.reduce_std(values, axis=(1, 2, 3), keepdims=True)
    lowest = 1 / tf.sqrt(tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float64))
    return tf.cast(values / tf.maximum(deviation, lowest), tf.float32)
