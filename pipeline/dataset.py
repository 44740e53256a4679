"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import pathlib

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "make_dataset needs TensorFlow: pip install tensorflow. iterate_batches gives the same batches without it."
    ) from error

from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.index import Index
from pipeline.manifest import DatasetInfo
from pipeline.order import POSITIONS_IN_BLOCK, Positions, Schedule
from pipeline.pixels import Conversion, ImageDtype

# Batches that are made at once, and that wait to be taken: some will be waiting for the disk.
_PARALLEL_BATCHES = 4

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
    within 1e-5). Records are read at their byte offset by TensorFlow's own reader and parsed by the batch; there is no
    shuffle buffer. The data set owns its order: pass ``shuffle=False`` to ``model.fit``.

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
        check_crc: must be True, TensorFlow's reader always checks; False is for ``iterate_batches``.
        cache: bytes of decoded records that may stay in memory. A share that fits is read from disk once, as the
            batches ask for it, and gathered from memory after that; 0 for never.

    Returns:
        A data set of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of
        that shape. Its cardinality is known: infinite, or the batches from ``start_step`` on.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range. A record that
            turns out damaged while iterating is TensorFlow's own ``DataLossError``; ``make verify`` says which it is.
    """
    conversion = Conversion(image_dtype, standardize)
    if not check_crc:
        raise RecordsError("check_crc=False is for iterate_batches: TensorFlow's reader always checks")
    if cache < 0:
        raise RecordsError(f"cache is {cache}, at least 0 expected")
    info = DatasetInfo.load(records)
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
    with tf.device("CPU:0"):
        source = _Source(records, info, Index.load(records, info, split))
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
    """Each batch's record positions, int64 ``(batch_size,)``, a short batch filled up with -1.

    Python is asked for a block of batches at a time; between those, a batch is TensorFlow's work alone.
    """
    steps_in_block = max(1, POSITIONS_IN_BLOCK // schedule.batch_size)

    def block(number: np.int64) -> Positions:
        start_step = schedule.start_step + int(number) * steps_in_block
        batches = dataclasses.replace(schedule, start_step=start_step).batches()
        filled = [
            np.pad(positions, (0, schedule.batch_size - len(positions)), constant_values=-1)
            for positions in itertools.islice(batches, steps_in_block)
        ]
        return np.array(filled, np.int64)

    @_as_it_is
    def load(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(block, [number], tf.int64), (None, schedule.batch_size))

    blocks = tf.data.Dataset.counter()
    if schedule.steps is not None:
        blocks = blocks.take(math.ceil(schedule.steps / steps_in_block))
    return blocks.map(load).unbatch()


class _Source:
    """Records on disk, read by position with TensorFlow's reader."""

    def __init__(self, records: str | os.PathLike[str], info: DatasetInfo, index: Index) -> None:
        self._paths = tf.constant([os.fspath(pathlib.Path(records, shard)) for shard in index.shards], tf.string)
        self._first = tf.constant(index.first)
        self._offsets = tf.constant(index.offsets)
        self._buffer_bytes = int(index.sizes.max())
        self._shape = info.image_shape
        self._image_dtype = tf.as_dtype(info.image_dtype)
        self._features = {
            schema.IMAGE: tf.io.FixedLenFeature([], tf.string),
            schema.MASK: tf.io.FixedLenFeature([], tf.string),
        }

    def decoded_bytes(self, count: int) -> int:
        """Memory that ``count`` records take as arrays."""
        return count * math.prod(self._shape) * (int(self._image_dtype.size) + 1)

    def fetch(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images in the stored dtype and bool masks, both ``(n, H, W, 1)``, at int64 ``(n,)`` positions."""
        count = tf.size(positions, tf.int64)
        shards = tf.searchsorted(self._first, positions, side="right") - 1
        # Batches are read side by side, the records of one in a row: beginning a parallel read takes longer than a
        # record does.
        serialized = (
            tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), tf.gather(self._offsets, positions)))
            .flat_map(self._one_record)
            .batch(count)
            .get_single_element()
        )
        parsed = tf.io.parse_example(serialized, self._features)
        shape = tf.concat([[count], tf.constant(self._shape, tf.int64)], 0)
        images = tf.reshape(tf.io.decode_raw(parsed[schema.IMAGE], self._image_dtype), shape)
        masks = tf.reshape(tf.io.decode_raw(parsed[schema.MASK], tf.uint8), shape)
        return images, tf.cast(masks, tf.bool)

    def _one_record(self, path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
        # The public tf.data.TFRecordDataset takes no byte offset.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[path], compression_type="", buffer_size=self._buffer_bytes, byte_offsets=[offset]
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)


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
