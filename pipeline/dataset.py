"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "make_dataset needs TensorFlow: pip install tensorflow. iterate_batches gives the same batches without it."
    ) from error

from pipeline.calls import called_by_tensorflow
from pipeline.opening import OpenSplit, open_split
from pipeline.order import POSITIONS_IN_BLOCK, Positions, Schedule
from pipeline.pixels import Conversion, ImageDtype
from pipeline.tensors import TensorReader

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
) -> tf.data.Dataset:
    """Batches of images and masks, in a new order over the whole split each epoch.

    Gives the same batches as :func:`pipeline.iterate_batches`, bit for bit and in the same order (``standardize``: to
    within 1e-5), and takes the same arguments, except ``prefetch``. Both read records with
    the same reader, by position, without a shuffle buffer. The data set shuffles itself: pass ``shuffle=False`` to
    ``model.fit``. With ``epochs=None``, also pass ``steps_per_epoch``
    (``DatasetInfo.load(records).splits[split].steps_per_epoch(batch_size)``).

    The data set works only in this process: its graph cannot be saved or sent to another process.
    ``tf.train.Checkpoint`` cannot save its iterator either (``FailedPreconditionError``): save the step with the model,
    and pass it as ``start_step`` to resume.

    Args:
        records, split, batch_size, shuffle, seed, epochs, drop_remainder, start_step, shard, image_dtype, standardize,
            check_crc: as in :func:`pipeline.iterate_batches`.

    Returns:
        A data set of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of
        that shape. Its cardinality is known: infinite, or the number of batches from ``start_step`` on.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
        tf.errors.InvalidArgumentError: while iterating, a record is damaged, or a shard or the directory was replaced.
            The message contains that of the RecordsError: shard, record and byte offset.
    """
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
    reader = TensorReader(opened.reader, opened.info, opened.conversion.read_dtype(opened.info.image_dtype))
    batches = (
        reader.batches(_positions(opened.schedule))
        .map(_without_autograph(_finisher(opened)))
        .prefetch(2)
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if steps is None else steps))
    )
    options = tf.data.Options()
    # `shard` makes the shares; TensorFlow's own sharding would split the sequence of blocks, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and an iterator that ends would wait for the tuner to wake.
    options.autotune.enabled = False
    return batches.with_options(options)


def _finisher(opened: OpenSplit) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from a row of positions and what was read there to a batch."""
    schedule, conversion = opened.schedule, opened.conversion
    fills_batches = schedule.drop_remainder or schedule.share % schedule.batch_size == 0

    def finish(positions: tf.Tensor, images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if not fills_batches:
            count = tf.math.count_nonzero(positions >= 0)
            images, masks = images[:count], masks[:count]
        return _converted(images, conversion), masks

    return finish


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

    @called_by_tensorflow
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


def _standardized(images: tf.Tensor) -> tf.Tensor:
    """As :func:`pipeline.pixels.standardized`."""
    values = tf.cast(images, tf.float64)
    values -= tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    deviation = tf.math.reduce_std(values, axis=(1, 2, 3), keepdims=True)
    lowest = 1 / tf.sqrt(tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float64))
    return tf.cast(values / tf.maximum(deviation, lowest), tf.float32)
