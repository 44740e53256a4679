"""Reads batches of records into tensors."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.ahead import Ahead
from pipeline.calls import called_by_tensorflow
from pipeline.errors import RecordsError
from pipeline.memory import ReusedMemory
from pipeline.order import Positions
from pipeline.view import Records

# What is read in one call, unless a batch is larger. A call takes as long as reading ten records.
_RECORDS_IN_CALL = 48
_BYTES_IN_CALL = 16 << 20

# AutoGraph has nothing to convert in the mapped functions, and under Python 3.13 it warns that it cannot.
without_autograph = tf.autograph.experimental.do_not_convert


class TensorReader:
    """Reads batches of records into tensors, with the reader that :func:`pipeline.iterate_batches` uses.

    Several small batches are read in one call of Python.

    Args:
        records: the records.
        image_dtype: dtype of the images.
        check_crc: verify each record's CRC-32C.
    """

    def __init__(self, records: Records, image_dtype: np.dtype[np.generic], check_crc: bool) -> None:
        self._records, self._check_crc = records, check_crc
        self._shapes = records.info.image_shape, records.info.mask_shape
        self._dtypes = np.dtype(image_dtype), records.info.mask_dtype
        self._memory = ReusedMemory(), ReusedMemory()
        self._ahead: Ahead | None = None

    def batches_in_call(self, width: int) -> int:
        """How many batches of ``width`` records are read in one call."""
        features = zip(self._shapes, self._dtypes, strict=True)
        record_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in features)
        return max(1, min(_RECORDS_IN_CALL, _BYTES_IN_CALL // record_bytes) // width)

    def expect(self, batches: Iterator[Positions]) -> None:
        """Lets the shards of coming batches be brought ahead, in the order of their positions."""
        self._ahead = self._records.ahead(batches)

    def batches(self, rows: tf.data.Dataset) -> tf.data.Dataset:
        """Reads a batch for each row of positions.

        Args:
            rows: int64 ``(width,)``, at least one position each, and then -1 as padding.

        Returns:
            A data set of ``(row, images, masks)``: the images and masks at padding are not specified.

        Raises:
            tf.errors.InvalidArgumentError: while iterating, as :meth:`pipeline.records.RecordReader.read`; at the batch
                that cannot be read.
        """
        groups = rows.batch(self.batches_in_call(rows.element_spec.shape[0]))

        def read_alone(row: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, masks = self._tensors(row[tf.newaxis], in_group=False)
            return row, images[0], masks[0]

        def read(rows: tf.Tensor) -> tf.data.Dataset:
            images, masks = self._tensors(rows, in_group=True)
            count = tf.shape(images)[0]
            together = tf.data.Dataset.from_tensor_slices((rows[:count], images, masks))
            return together.concatenate(
                tf.data.Dataset.from_tensor_slices(rows[count:]).map(without_autograph(read_alone))
            )

        # Reading and cutting are one function, because TensorFlow takes 0.1 ms to start one.
        return groups.flat_map(without_autograph(read))

    def _tensors(self, rows: tf.Tensor, *, in_group: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and masks ``(n, width, H, W, 1)`` of ``n`` rows; with ``in_group`` of none if they cannot be read."""
        # TensorFlow keeps the function that it calls until the process ends; the shards must not stay open that long.
        # So the function refers to this object weakly. The data set keeps it alive, and each iterator the data set.
        method = weakref.WeakMethod(self._read)
        width, features = rows.shape[1], tuple(zip(self._shapes, self._dtypes, strict=True))

        @called_by_tensorflow
        def read(rows: Positions) -> Any:
            alive = method()
            try:
                if alive is None:
                    # TensorFlow prints every other error, and an iterator may be deleted while it reads batches.
                    raise StopIteration(
                        "the data set that read these records was deleted; keep it, or one of its iterators, and make "
                        "it outside of tf.function and of functions that map data sets"
                    )
                return alive(rows)
            except (RecordsError, StopIteration):
                if not in_group:
                    raise
                # These rows are then read one by one, so that the error comes with its batch and not before.
                return tuple(np.empty((0, width, *shape), dtype) for shape, dtype in features)

        images, masks = tf.numpy_function(read, [rows], self._dtypes)
        image_shape, mask_shape = self._shapes
        return tf.ensure_shape(images, (None, width, *image_shape)), tf.ensure_shape(masks, (None, width, *mask_shape))

    def _read(self, rows: Positions) -> tuple[npt.NDArray[np.generic], npt.NDArray[Any]]:
        images, masks = (
            memory.array((*rows.shape, *shape), dtype)
            for memory, shape, dtype in zip(self._memory, self._shapes, self._dtypes, strict=True)
        )
        positions = np.where(rows < 0, rows[:, :1], rows).reshape(-1)
        flat_images, flat_masks = (
            array.reshape(-1, *shape) for array, shape in zip((images, masks), self._shapes, strict=True)
        )
        if self._ahead is not None:
            self._ahead.advance(int(np.count_nonzero(rows >= 0)))
        self._records.read(positions, flat_images, flat_masks, self._check_crc)
        return images, masks
