"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import math
import os
import pathlib

import numpy as np
import numpy.typing as npt

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
from pipeline.order import Positions, Schedule
from pipeline.pixels import Conversion, ImageDtype


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
    source = _Source(records, info, Index.load(records, info, split))
    # Shares move through the whole split from epoch to epoch, so what a worker caches is the split, not its share.
    fetch = (
        _Cache(source, info, schedule.count).fetch if source.decoded_bytes(schedule.count) <= cache else source.fetch
    )
    fixed_batch = batch_size if drop_remainder or schedule.share % batch_size == 0 else None

    # There is nothing here for AutoGraph to convert, and under Python 3.13 it warns that it cannot.
    @tf.autograph.experimental.do_not_convert
    def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = tf.numpy_function(schedule.batch, [step], tf.int64, stateful=False)
        positions.set_shape([None])
        images, masks = fetch(positions)
        images.set_shape((fixed_batch, *info.image_shape))
        masks.set_shape((fixed_batch, *info.mask_shape))
        if conversion.standardize:
            images = _standardized(images)
        elif conversion.image_dtype is not None:
            images = tf.cast(images, tf.float32)
        return images, masks

    steps = tf.data.Dataset.counter(start_step)
    if schedule.steps is not None:
        steps = steps.take(schedule.steps)
    batches = steps.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    # The shares are made by `shard`; TensorFlow's own would cut the row of steps, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


class _Source:
    """Records on disk, read by position with TensorFlow's reader."""

    def __init__(self, records: str | os.PathLike[str], info: DatasetInfo, index: Index) -> None:
        self._paths = tf.constant([os.fspath(pathlib.Path(records, shard)) for shard in index.shards], tf.string)
        self._index = index
        self._shape = info.image_shape
        self._buffer_bytes = int(index.sizes.max())
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
        shards, offsets = tf.numpy_function(self._locate, [positions], (tf.int64, tf.int64), stateful=False)
        count = tf.size(positions, tf.int64)
        serialized = (
            tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), offsets))
            .interleave(self._one_record, cycle_length=4, num_parallel_calls=4, deterministic=True)
            .batch(count)
            .get_single_element()
        )
        parsed = tf.io.parse_example(serialized, self._features)
        shape = tf.concat([[count], tf.constant(self._shape, tf.int64)], 0)
        images = tf.reshape(tf.io.decode_raw(parsed[schema.IMAGE], self._image_dtype), shape)
        masks = tf.reshape(tf.io.decode_raw(parsed[schema.MASK], tf.uint8), shape)
        return images, tf.cast(masks, tf.bool)

    def _locate(self, positions: Positions) -> tuple[Positions, Positions]:
        return self._index.shard_of(positions), self._index.offsets[positions]

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
        self._image_dtype = tf.as_dtype(info.image_dtype)
        # np.empty takes no memory before a record is written to it.
        self._images: npt.NDArray[np.generic] = np.empty((count, *info.image_shape), info.image_dtype)
        self._masks = np.empty((count, *info.mask_shape), np.bool_)
        self._filled = np.zeros(count, np.bool_)

    def fetch(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As :meth:`_Source.fetch`, from memory where the records are there."""
        absent = tf.numpy_function(self._absent, [positions], tf.int64)
        absent.set_shape([None])
        filled = tf.cond(tf.size(absent) > 0, lambda: self._fill(absent), lambda: tf.constant(0, tf.int64))
        with tf.control_dependencies([filled]):
            images, masks = tf.numpy_function(self._gather, [positions], (self._image_dtype, tf.bool))
        return images, masks

    def _fill(self, absent: tf.Tensor) -> tf.Tensor:
        images, masks = self._source.fetch(absent)
        return tf.numpy_function(self._store, [absent, images, masks], tf.int64)

    def _absent(self, positions: Positions) -> Positions:
        return positions[~self._filled[positions]]

    def _store(self, positions: Positions, images: npt.NDArray[np.generic], masks: npt.NDArray[np.bool_]) -> np.int64:
        # Two batches of neighboring epochs may bring the same record at once; the bytes are the same.
        self._images[positions] = images
        self._masks[positions] = masks
        self._filled[positions] = True
        return np.int64(len(positions))

    def _gather(self, positions: Positions) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        return self._images[positions], self._masks[positions]


def _standardized(images: tf.Tensor) -> tf.Tensor:
    """As :func:`pipeline.pixels.standardized`."""
    values = tf.cast(images, tf.float64)
    values -= tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    deviation = tf.math.reduce_std(values, axis=(1, 2, 3), keepdims=True)
    lowest = 1 / tf.sqrt(tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float64))
    return tf.cast(values / tf.maximum(deviation, lowest), tf.float32)
