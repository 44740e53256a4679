"""The ``tf.data`` graph of :func:`pipeline.make_dataset`."""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from pipeline.opening import Opened
from pipeline.order import POSITIONS_IN_BLOCK, Point, Positions, Schedule
from pipeline.pixels import Conversion
from pipeline.view import Records

# Batches that are read in parallel, and that are kept ready: some of them wait for the disk.
_PARALLEL_BATCHES = 4

# Eigen's EIGEN_MAX_ALIGN_BYTES.
_ALIGNMENT = 64

# AutoGraph has nothing to convert in the mapped functions, and under Python 3.13 it warns that it cannot.
_without_autograph = tf.autograph.experimental.do_not_convert


def batches(opened: Opened, cache: int) -> tf.data.Dataset:
    """The data set that :func:`pipeline.make_dataset` returns."""
    steps = opened.schedule.steps(opened.start)
    made = (
        _positions(opened.schedule, opened.start)
        .map(_without_autograph(_loader(opened, cache)), num_parallel_calls=_PARALLEL_BATCHES, deterministic=True)
        .prefetch(_PARALLEL_BATCHES)
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if steps is None else steps))
    )
    options = tf.data.Options()
    # `shard` makes the shares; TensorFlow's own sharding would split the sequence of blocks, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and an iterator that ends would wait for the tuner to wake.
    options.autotune.enabled = False
    return made.with_options(options)


def _loader(opened: Opened, cache: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns the function from a batch's positions to its arrays."""
    info, schedule, conversion = opened.records.info, opened.schedule, opened.conversion
    source = _Source(opened.records, opened.check_crc)
    fetch = source.fetch
    # A worker's share moves through all records from epoch to epoch, so the cache has room for all of them.
    if source.decoded_bytes(schedule.count) <= cache:
        with tf.device("CPU:0"):
            fetch = _Cache(source, info, schedule.count).fetch
    fills_batches = schedule.drop_remainder or schedule.share % schedule.batch_size == 0
    fixed_batch = schedule.batch_size if fills_batches else None

    def load(positions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if fixed_batch is None:
            positions = tf.boolean_mask(positions, positions >= 0)
        images, masks = fetch(positions)
        images.set_shape((fixed_batch, *info.image_shape))
        masks.set_shape((fixed_batch, *info.mask_shape))
        images = _converted(images, conversion)
        return (images, masks, positions) if opened.positions else (images, masks)

    return load


def _converted(images: tf.Tensor, conversion: Conversion) -> tf.Tensor:
    """Images as the caller gets them, as :meth:`pipeline.pixels.Conversion.apply` makes them."""
    if conversion.standardize:
        return _standardized(images)
    return images if conversion.image_dtype is None else tf.cast(images, tf.float32)


def _positions(schedule: Schedule, first: Point) -> tf.data.Dataset:
    """Each batch's record positions, int64 ``(min(batch_size, share),)``, a short batch padded with -1.

    Python computes the positions of a block of batches at a time; within a block only TensorFlow works. Each iteration
    starts where the iteration before it ends.
    """
    width = min(schedule.batch_size, schedule.share)
    steps_in_block = max(1, POSITIONS_IN_BLOCK // width)
    starts = itertools.accumulate(itertools.repeat(first), lambda start, _: schedule.following(start))
    steps = schedule.steps(first)

    def start() -> npt.NDArray[np.int64]:
        point = next(starts)
        if schedule.steps(point) != steps:
            # The number of batches of a data set is known beforehand, so each iteration has the same.
            raise RecordsError(
                "start_step is in the middle of an epoch, so this data set can be iterated only once; make another "
                "one for the next epoch, or use epochs=None"
            )
        return np.array(point, np.int64)

    def block(start: npt.NDArray[np.int64], number: np.int64) -> Positions:
        point = schedule.advance(Point(*start.tolist()), int(number) * steps_in_block)
        filled = [
            np.pad(positions, (0, width - len(positions)), constant_values=-1)
            for positions, _ in itertools.islice(schedule.batches(point), steps_in_block)
        ]
        return np.array(filled, np.int64)

    def blocks(start: tf.Tensor) -> tf.data.Dataset:
        def load(number: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(block, [start, number], tf.int64), (None, width))

        numbers = tf.data.Dataset.counter()
        if steps is not None:
            numbers = numbers.take(math.ceil(steps / steps_in_block))
        return numbers.map(_without_autograph(load)).unbatch()

    once = tf.data.Dataset.from_tensors(0)
    return once.map(_without_autograph(lambda _: tf.numpy_function(start, [], tf.int64))).flat_map(
        _without_autograph(blocks)
    )


class _Source:
    """Records on disk, read by a TensorFlow operation."""

    def __init__(self, records: Records, check_crc: bool) -> None:
        self._records, self._check_crc = records, check_crc
        info = records.info
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
        self._records.read(positions, images, masks, self._check_crc)
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
        self._masks = _variable(tf.raw_ops.Empty(shape=(count, *info.mask_shape), dtype=info.mask_dtype, init=False))
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
