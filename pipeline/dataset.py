"""Shuffled batches as a ``tf.data.Dataset``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy.typing as npt

from pipeline.opening import open_records
from pipeline.view import Records

if TYPE_CHECKING:
    import tensorflow as tf


def make_dataset(
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
) -> tf.data.Dataset:
    """Batches of images and masks; each iteration is the next epoch, in a new order over all records.

    Gives the same batches as :func:`pipeline.iterate_batches`, bit for bit and in the same order (``standardize``: to
    within 1e-5), and takes the same arguments, except ``prefetch``. Both use the same reader, which reads by position,
    without a shuffle buffer.

    The data set shuffles itself: pass ``shuffle=False`` to ``model.fit``, which then reads it once per epoch. To
    continue a run after epoch ``n``, pass ``initial_epoch=n`` to ``model.fit``, and here
    ``start_step=n * records.steps_per_epoch(batch_size)`` of the :class:`pipeline.Records` or the view that you train
    on. Each look at a batch, such as ``next(iter(dataset))``, counts as an iteration: look at ``records[:8]`` instead.

    The data set works only in this process: its graph cannot be saved or sent to another process.
    ``tf.train.Checkpoint`` cannot save its iterator either (``FailedPreconditionError``): save the step with the model,
    and pass it as ``start_step`` to resume.

    Args:
        records, split, batch_size, shuffle, seed, drop_remainder, shard: as in :func:`pipeline.iterate_batches`.
        image_dtype, standardize, positions, check_crc: as in :func:`pipeline.iterate_batches`.
        epochs: of one iteration; None for one that does not end, for which ``model.fit`` needs ``steps_per_epoch``.
        start_step: the step to start at, counted over all epochs. If it is in the middle of an epoch, the data set can
            be iterated only once, unless ``epochs`` is None.

    Returns:
        A data set of ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of
        that shape (label maps: uint8); with ``positions``, a third tensor, int64 ``(batch_size,)``, which ``model.fit``
        would take for sample weights. Its cardinality is known: infinite, or the number of batches of one iteration.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
        TypeError: an argument has the wrong type.
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range.
        tf.errors.InvalidArgumentError: while iterating, a record is damaged, or a shard or the directory was replaced.
            The message contains that of the RecordsError: shard, record and byte offset.
            ``ignore_errors()`` cannot leave that batch out: it waits without end for another one in its place.
    """
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
    try:
        from pipeline import graph
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "make_dataset needs TensorFlow: pip install tensorflow. iterate_batches gives the same batches without it."
        ) from error
    return graph.batches(opened)
