"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "make_dataset needs TensorFlow: pip install tensorflow. iterate_batches gives the same batches without it."
    ) from error

from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from pipeline.opening import OpenSplit, open_split
from pipeline.order import POSITIONS_IN_BLOCK, Positions, Schedule
from pipeline.pixels import Conversion, ImageDtype
from pipeline.records import RecordReader

# Batches that are read in parallel, and that are kept ready: some of them wait for the disk.
_PARALLEL_BATCHES = 4

# Eigen's EIGEN_MAX_ALIGN_BYTES.
_ALIGNMENT = 64

# AutoGraph has nothing to convert in the mapped functions, and under Python 3.13 it warns that it cannot.
_without_autograph = tf.autograph.experimental.do_not_convert


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
    within 1e-5), and takes the same arguments, except ``cache`` in place of ``prefetch``. Both read records with the
    same reader, by position, without a shuffle buffer. The data set shuffles itself: pass ``shuffle=False`` to
    ``model.fit``. With ``epochs=None``, also pass ``steps_per_epoch``
    (``DatasetInfo.load(records).splits[split].steps_per_epoch(batch_size)``).

    The data set works only in this process: its graph cannot be saved or sent to another process.
    ``tf.train.Checkpoint`` cannot save its iterator either (``FailedPreconditionError``): save the step with the model,
    and pass it as ``start_step`` to resume.

    Args:
        records, split, batch_size, shuffle, seed, epochs, drop_remainder, start_step, shard, image_dtype, standardize:
            as in :func:`pipeline.iterate_batches`.
        check_crc: verify each record's CRC-32C when it is read; a record in the cache is not read again.
        cache: bytes of decoded records that may stay in memory. If the split fits, each record is read from disk once,
            when a batch first needs it, and copied from memory after that; 0 for no cache.

    Returns:
        A data set of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of
        that shape. Its cardinality is known: infinite, or the number of batches from ``start_step`` on.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
        tf.errors.InvalidArgumentError: while iterating, a record is damaged, or a shard or the directory was replaced.
            The message contains that of the RecordsError: shard, record and byte offset.
    """
    if cache < 0:
        raise RecordsError(f"cache is {cache}, at least 0 expected")
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
    steps = opened.schedule.steps
    batches = (
        _positions(opened.schedule)
        .map(_without_autograph(_loader(opened, cache)), num_parallel_calls=_PARALLEL_BATCHES, deterministic=True)
        .prefetch(_PARALLEL_BATCHES)
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if steps is None else steps))
    )
    options = tf.data.Options()
    # `shard` makes the shares; TensorFlow's own sharding would split the sequence of blocks, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and an iterator that ends would wait for the tuner to wake.
    options.autotune.enabled = False
    return batches.with_options(options)


def _loader(opened: OpenSplit, cache: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from a batch's positions to its images and masks."""
    info, schedule, conversion = opened.info, opened.schedule, opened.conversion
    source = _Source(opened.reader, info)
    fetch = source.fetch
    # A worker's share moves through the whole split from epoch to epoch, so the cache has room for the whole split.
    if source.decoded_bytes(schedule.count) <= cache:
        with tf.device("CPU:0"):
            fetch = _Cache(source, info, schedule.count).fetch
    fills_batches = schedule.drop_remainder or schedule.share % schedule.batch_size == 0
    fixed_batch = schedule.batch_size if fills_batches else None

    def load(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if fixed_batch is None:
            positions = tf.boolean_mask(positions, positions >= 0)
        images, masks = fetch(positions)
        images.set_shape((fixed_batch, *info.image_shape))
        masks.set_shape((fixed_batch, *info.mask_shape))
        return _converted(images, conversion), masks

    return load


def _converted(images: tf.Tensor, conversion: Conversion) -> tf.Tensor:
    """Images as the caller gets them, as :meth:`pipeline.pixels.Conversion.apply` makes them."""
    if conversion.standardize:
        return _standardized(images)
    return images if conversion.image_dtype is None else tf.cast(images, tf.float32)


def _positions(schedule: Schedule) -> tf.data.Dataset:
    """Each batch's record positions, int64 ``(min(batch_size, share),)``, a short batch padded with -1.

    Python computes the positions of a block of batches at a time; within a block only TensorFlow works.
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

    def load(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(block, [number], tf.int64), (None, width))

    blocks = tf.data.Dataset.counter()
    if schedule.steps is not None:
        blocks = blocks.take(math.ceil(schedule.steps / steps_in_block))
    return blocks.map(_without_autograph(load)).unbatch()


class _Source:
    """Records on disk, read by a TensorFlow operation."""

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
        # So the function refers to this object weakly. The data set keeps it alive, and each iterator the data set.
        method = weakref.WeakMethod(self._read)

        def read(positions: Positions) -> Any:
            alive = method()
            if alive is None:
                # The one error that TensorFlow does not print: an iterator may be deleted while it reads batches.
                raise StopIteration(
                    "the data set that read these records was deleted; keep it, or one of its iterators"
                )
            return alive(positions)

        # In the stored dtype: TensorFlow casts without Python's global lock.
        images, masks = tf.numpy_function(read, [positions], (self._image_dtype, self._mask_dtype))
        return tf.ensure_shape(images, (None, *self._image_shape)), tf.ensure_shape(masks, (None, *self._mask_shape))

    def _read(self, positions: Positions) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        images = _aligned((len(positions), *self._image_shape), self._image_dtype)
        masks = _aligned((len(positions), *self._mask_shape), self._mask_dtype)
        self._reader.read(positions, images, masks)
        return images, masks


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An uninitialized array at an address that TensorFlow accepts without a copy."""
    size = math.prod(shape) * dtype.itemsize
    octets = np.empty(size + _ALIGNMENT, np.uint8)
    start = -octets.ctypes.data % _ALIGNMENT
    return octets[start : start + size].view(dtype).reshape(shape)


class _Cache:
    """Decoded records in memory; each is read when it is first needed."""

    def __init__(self, source: _Source, info: DatasetInfo, count: int) -> None:
        self._source = source
        self._images = _variable(tf.raw_ops.Empty(shape=(count, *info.image_shape), dtype=info.image_dtype, init=False))
        self._masks = _variable(tf.raw_ops.Empty(shape=(count, *info.mask_shape), dtype=tf.bool, init=False))
        self._filled = _variable(tf.zeros(count, tf.bool))

    def fetch(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As :meth:`_Source.fetch`, but reads only the records that are not in memory."""
        absent = tf.boolean_mask(positions, ~tf.gather(self._filled, positions))
        filled = tf.cond(tf.size(absent) > 0, lambda: self._fill(absent), lambda: tf.constant(True))
        with tf.control_dependencies([filled]):
            return tf.gather(self._images, positions), tf.gather(self._masks, positions)

    def _fill(self, absent: tf.Tensor) -> tf.Tensor:
        # Batches of neighboring epochs may store the same record at the same time; the bytes are equal.
        images, masks = self._source.fetch(absent)
        stored = [
            self._images.scatter_update(tf.IndexedSlices(images, absent)),
            self._masks.scatter_update(tf.IndexedSlices(masks, absent)),
        ]
        with tf.control_dependencies(stored):
            stored_flags = tf.IndexedSlices(tf.ones_like(absent, tf.bool), absent)
            with tf.control_dependencies([self._filled.scatter_update(stored_flags)]):
                return tf.constant(True)


def _variable(value: tf.Tensor) -> tf.Variable:
    """A plain variable in host memory; a value from ``tf.raw_ops.Empty`` takes up memory only as it is written."""

    def make() -> tf.Variable:
        with tf.device("CPU:0"):
            return tf.Variable(value, trainable=False)

    # A strategy's scope would mirror the variable to every device; it applies only to the thread that entered it.
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        return outside.submit(make).result()


def _standardized(images: tf.Tensor) -> tf.Tensor:
    """As :func:`pipeline.pixels.standardized`."""
    values = tf.cast(images, tf.float64)
    values -= tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    deviation = tf.math.reduce_std(values, axis=(1, 2, 3), keepdims=True)
    lowest = 1 / tf.sqrt(tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float64))
    return tf.cast(values / tf.maximum(deviation, lowest), tf.float32)
