"""The ``tf.data`` graph of :func:`pipeline.make_dataset`."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.calls import called_by_tensorflow
from pipeline.errors import RecordsError
from pipeline.opening import Opened
from pipeline.order import POSITIONS_IN_BLOCK, Point, Positions, Schedule
from pipeline.tensors import TensorReader, without_autograph


def batches(opened: Opened) -> tf.data.Dataset:
    """The data set that :func:`pipeline.make_dataset` returns."""
    steps = opened.schedule.steps(opened.start)
    dtype = opened.conversion.read_dtype(opened.records.info.image_dtype)
    reader = TensorReader(opened.records, dtype, opened.check_crc)
    rows = _positions(opened.schedule, opened.start, weakref.WeakMethod(reader.expect))
    made = (
        reader.batches(rows)
        .map(without_autograph(_finisher(opened)))
        # As many as come at once, so that the next ones are read while the caller uses these.
        .prefetch(max(2, reader.batches_in_call(rows.element_spec.shape[0])))
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if steps is None else steps))
    )
    options = tf.data.Options()
    # `shard` makes the shares; TensorFlow's own sharding would split the sequence of blocks, or fail to.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and an iterator that ends would wait for the tuner to wake.
    options.autotune.enabled = False
    return made.with_options(options)


def _finisher(opened: Opened) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Returns the function from a row of positions and what was read there to a batch."""
    schedule, standardize = opened.schedule, opened.conversion.standardize
    fills_batches = schedule.drop_remainder or schedule.share % schedule.batch_size == 0

    def finish(positions: tf.Tensor, images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if not fills_batches:
            count = tf.math.count_nonzero(positions >= 0)
            positions, images, masks = positions[:count], images[:count], masks[:count]
        # Without standardize, they are read in the caller's dtype.
        images = _standardized(images) if standardize else images
        return (images, masks, positions) if opened.positions else (images, masks)

    return finish


def _positions(
    schedule: Schedule, first: Point, expect: weakref.WeakMethod[Callable[[Iterator[Positions]], None]]
) -> tf.data.Dataset:
    """Each batch's record positions, int64 ``(min(batch_size, share),)``, a short batch padded with -1.

    Python computes the positions of a block of batches at a time; within a block only TensorFlow works. Each iteration
    starts where the iteration before it ends, and calls ``expect`` with an iterator over all its positions.
    """
    width = min(schedule.batch_size, schedule.share)
    steps_in_block = max(1, POSITIONS_IN_BLOCK // width)
    starts = itertools.accumulate(itertools.repeat(first), lambda start, _: schedule.following(start))
    steps = schedule.steps(first)

    @called_by_tensorflow
    def start() -> npt.NDArray[np.int64]:
        point = next(starts)
        if schedule.steps(point) != steps:
            # The number of batches of a data set is known beforehand, so each iteration has the same.
            raise RecordsError(
                "start_step is in the middle of an epoch, so this data set can be iterated only once; pass a multiple "
                f"of {schedule.steps_per_epoch}, the batches of an epoch, or use epochs=None"
            )
        expecting = expect()
        if expecting is not None:
            expecting(positions for positions, _ in schedule.batches(point))
        return np.array(point, np.int64)

    @called_by_tensorflow
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
        return numbers.map(without_autograph(load)).unbatch()

    once = tf.data.Dataset.from_tensors(0)
    return once.map(without_autograph(lambda _: tf.numpy_function(start, [], tf.int64))).flat_map(
        without_autograph(blocks)
    )


def _standardized(images: tf.Tensor) -> tf.Tensor:
    """As :func:`pipeline.pixels.standardized`."""
    values = tf.cast(images, tf.float64)
    values -= tf.reduce_mean(values, axis=(1, 2, 3), keepdims=True)
    deviation = tf.math.reduce_std(values, axis=(1, 2, 3), keepdims=True)
    lowest = 1 / tf.sqrt(tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float64))
    return tf.cast(values / tf.maximum(deviation, lowest), tf.float32)
