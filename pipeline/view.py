"""Records by position, and views of them."""

from __future__ import annotations

import functools
import operator
import os
import pathlib
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from pipeline import arguments, order, schema, table
from pipeline.ahead import Ahead
from pipeline.errors import RecordsError
from pipeline.index import Index
from pipeline.manifest import DatasetInfo
from pipeline.order import Positions
from pipeline.records import RecordReader
from pipeline.remote import RemoteDirectory, open_directory

Sample = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]


class OpenRecords:
    """An open records directory; all views of it share it.

    Args:
        path: records directory, or the URL of one.
        split: name of a split, or None for all splits, in the order of their names.
        cache_dir: where the files of a URL are kept.
        cache_bytes: how many bytes of them.

    Raises:
        RecordsError: the directory is missing, incomplete or damaged, or has no such split.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None,
        cache_dir: str | os.PathLike[str] | None,
        cache_bytes: int | None,
    ) -> None:
        self.directory = open_directory(path, cache_dir, cache_bytes)
        self.info = DatasetInfo.load(self.directory)
        self.splits = tuple(self.info.splits) if split is None else (split,)
        if isinstance(self.directory, RemoteDirectory):
            shards = [shard for name in self.splits for shard in self.info.split(name).shards]
            small = {self.info.names.get(schema.TABLE_FILE), *(schema.index_name(shard.name) for shard in shards)}
            self.directory.bring({name: file for name, file in self.info.files.items() if name in small})
        self.reader = RecordReader(self.directory, self.info, Index.load(self.directory, self.info, *self.splits))

    @functools.cached_property
    def first(self) -> npt.NDArray[np.int64]:
        """The position of the first record of each split, and the number of records."""
        return np.cumsum([0, *(self.info.split(name).count for name in self.splits)], dtype=np.int64)

    @functools.cached_property
    def table(self) -> table.Table:
        """A row per record."""
        rows = table.load(self.directory, self.info)
        start = 0
        if self.splits != tuple(self.info.splits):
            names = list(self.info.splits)
            start = sum(self.info.splits[name].count for name in names[: names.index(self.splits[0])])
        rows = rows[start : start + int(self.first[-1])]
        rows.flags.writeable = False
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "table"}


class Records:
    """The records of a directory by position, and views of them. It needs only NumPy and google-crc32c.

    A view is a selection of records in an order of its own. It takes 8 bytes a record, and reads from the same files.
    :func:`pipeline.iterate_batches` and :func:`pipeline.make_dataset` take one in place of a path; so does everything
    that takes a sequence of samples, such as PyTorch's ``DataLoader`` or grain's ``MapDataset.source``.

    Objects can be sent to other processes, and used by several threads.

    Args:
        path: records directory, or its URL: ``s3://bucket/records``, ``gs://…``, ``https://…``, or any other that
            fsspec knows. A ``file://`` URL is read like those: use it for a slow network file system.
        split: name of a split; None for all splits, in the order of their names.
        cache_dir: where the shards of a URL are kept, on a local disk, by default in ``cardiac-lv-records`` below
            ``$XDG_CACHE_HOME`` or ``~/.cache``. All processes of a machine and all records can share one. It has no
            effect on a local path.
        cache_bytes: how much is kept there, by default half of what is free or already in the cache. The files that
            were used least recently make room for others. With less than all shards take, read without shuffling: a
            shuffled batch needs as many shards as it has records. ``docs/FORMAT.md`` has more.

    Raises:
        TypeError: ``split`` is not a string, ``cache_bytes`` is not a whole number.
        RecordsError: the directory is missing, incomplete or damaged, or has no such split. A URL: the store refuses
            or fails, the package for it is not installed, or ``cache_bytes`` is smaller than a shard.

    Examples:
        Leave one study out, without writing records again::

            records = Records("records")
            held_out = records.table["study_id"] == "SCD0000101"
            train, val = records.where(~held_out), records.where(held_out)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        if split is not None and not isinstance(split, str):
            raise TypeError(f"split is {split!r}, the name of one split, or None for all of them, expected")
        self._opened = OpenRecords(path, split, cache_dir, cache_bytes)
        self._positions: Positions = np.arange(self._opened.first[-1])

    @property
    def path(self) -> pathlib.Path | str:
        """The records directory; its URL, without user, password and query, if it is in a store."""
        return self._opened.directory.path

    @property
    def info(self) -> DatasetInfo:
        """The manifest of the directory, not only of this view."""
        return self._opened.info

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have a record in this view."""
        present = np.unique(self._opened.first.searchsorted(self._positions, side="right") - 1)
        return tuple(self._opened.splits[number] for number in present)

    @property
    def studies(self) -> tuple[str, ...]:
        """Ids of the studies that have a record in this view, sorted."""
        return tuple(np.unique(self.table["study_id"]).tolist())

    @functools.cached_property
    def table(self) -> table.Table:
        """A read-only structured array with a row per record of this view, in its order.

        ``docs/FORMAT.md`` lists the columns. The table is read when it is first needed: 8 ms for 20,000 records, 0.4 s
        for a million.

        Raises:
            RecordsError: its file does not match the manifest.
        """
        rows = self._opened.table
        if len(self) == len(rows) and np.array_equal(self._positions, np.arange(len(rows))):
            return rows
        rows = rows[self._positions]
        rows.flags.writeable = False
        return rows

    def steps_per_epoch(self, batch_size: int = 8, drop_remainder: bool = False) -> int:
        """Batches in one epoch over this view; a short last batch counts unless it is dropped.

        Raises:
            TypeError: ``batch_size`` is not a whole number.
            RecordsError: ``batch_size`` is below 1.
        """
        return order.steps_per_epoch(
            len(self),
            arguments.whole_number("batch_size", batch_size, 1),
            arguments.flag("drop_remainder", drop_remainder),
        )

    def content(self, name: str) -> bytes:
        """The content of one of ``info.files``, for example ``"audit.csv"``.

        Raises:
            RecordsError: it is missing or does not match the manifest.
        """
        return self.info.content(self._opened.directory, name)

    def where(self, condition: npt.ArrayLike) -> Self:
        """The records for which a condition holds, in the same order.

        Args:
            condition: bool ``(len(self),)``, for example ``records.table["slice_index"] == 0``.

        Raises:
            TypeError: it is not an array of booleans.
            RecordsError: it has another length.
        """
        chosen = np.asarray(condition)
        if chosen.dtype != np.bool_:
            raise TypeError(f"condition has dtype {chosen.dtype}, bool expected; take() chooses by position")
        if chosen.shape != (len(self),):
            raise RecordsError(f"condition has shape {chosen.shape}, ({len(self)},) expected: one boolean per record")
        return self._view(self._positions[chosen])

    def take(self, positions: npt.ArrayLike) -> Self:
        """The records at these positions of this view, in this order.

        Args:
            positions: integers ``(n,)``, which may repeat; negative ones count from the end.

        Raises:
            TypeError: they are not integers.
            IndexError: there is no such position.
        """
        return self._view(self._at(positions))

    def split(self, k: int, n: int, seed: int = 0) -> tuple[Self, Self]:
        """Divides the records by study for cross-validation in ``n`` folds.

        Each study is in one fold. A fold depends only on the ids of the studies in this view, ``n`` and ``seed``. To
        keep a split apart, such as one for tests, divide another one: ``Records(path, "train").split(k, n)``. A view of
        several splits is divided with a warning.

        Args:
            k: the fold that is held out, from 0 to ``n - 1``.
            n: number of folds, from 2 to the number of studies.
            seed: of the order in which studies are dealt to the folds.

        Returns:
            The records of the other folds, and those of fold ``k``.

        Raises:
            TypeError: an argument is not a whole number.
            RecordsError: an argument is out of its range.
        """
        n = arguments.whole_number("n", n, 2)
        k = arguments.whole_number("k", k, 0)
        seed = arguments.whole_number("seed", seed, 0)
        studies = np.array(self.studies)
        if len(studies) < 2:
            raise RecordsError("the records are of fewer than two studies, so there are no folds of whole studies")
        if n > len(studies):
            raise RecordsError(f"n is {n}, at most {len(studies)} expected: a fold has at least one study")
        if k >= n:
            raise RecordsError(f"k is {k}, at most {n - 1} expected: the folds are numbered from 0")
        if len(self.splits) > 1:
            mixed = ", ".join(self.splits)
            warnings.warn(
                f"the folds mix the splits {mixed}; Records(path, split).split(...) divides one of them", stacklevel=2
            )
        fold = studies[order.permute(np.arange(k, len(studies), n), len(studies), seed, 0)]
        held_out = np.isin(self.table["study_id"], fold)
        return self.where(~held_out), self.where(held_out)

    def read(
        self, positions: Positions, images: npt.NDArray[np.generic], masks: npt.NDArray[Any], check_crc: bool = True
    ) -> None:
        """Fills C-contiguous arrays ``(n, H, W, 1)`` from the records at ``n`` positions of this view.

        Args:
            positions: int64 ``(n,)``, not negative.
            images: of the stored dtype, or of float32.
            masks: of ``info.mask_dtype``.
            check_crc: verify each record's CRC-32C.

        Raises:
            RecordsError: a record is damaged, or its shard changed; the message names shard, record and byte offset.
        """
        self._opened.reader.read(self._positions[positions], images, masks, check_crc)

    def ahead(self, batches: Iterator[Positions]) -> Ahead | None:
        """Brings the shards of coming batches ahead; None if the records are local.

        Args:
            batches: the positions of each, as for :meth:`read`, in the order in which they will be read.
        """
        return self._opened.reader.ahead(self._positions[batch] for batch in batches)

    def shortage(self, batch_size: int) -> str | None:
        """What batches of a shuffled epoch cost because the cache is too small for these records; None if it is not."""
        return self._opened.reader.shortage(self._positions, batch_size)

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[np.integer[Any]]) -> Sample: ...

    def __getitem__(self, index: Any) -> Sample:
        """Reads one record, or several as stacked arrays.

        Args:
            index: an integer, a slice, or integers ``(n,)``; negative ones count from the end.

        Returns:
            Image (float32) and mask (``info.mask_dtype``), each ``(H, W, 1)``, or ``(n, H, W, 1)`` for several.

        Raises:
            TypeError: the index is something else.
            IndexError: there is no such position.
            RecordsError: a record is damaged, or its shard changed.
        """
        if isinstance(index, slice):
            return self._stacked(self._positions[index])
        # An array or a tensor of one element is a list of one record, although it can be an index.
        if getattr(index, "ndim", 0) or isinstance(index, bool):
            return self._stacked(self._at(index))
        try:
            place = operator.index(index)
        except TypeError:
            return self._stacked(self._at(index))
        if not -len(self) <= place < len(self):
            raise IndexError(f"index {place} is out of bounds for {len(self)} records")
        images, masks = self._stacked(self._positions[[place]])
        return images[0], masks[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of a batch, read together; PyTorch calls it."""
        return list(zip(*self[indices], strict=True))

    def __iter__(self) -> Iterator[Sample]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        image, mask = np.dtype(self.info.image_dtype), self.info.mask_dtype
        try:
            studies = str(len(self.studies))
        except RecordsError:
            studies = "unknown"
        return (
            f"<Records of {os.fspath(self.path)!r}: {len(self)} of {studies} studies, "
            f"splits {', '.join(self.splits) or 'none'}, {self.info.image_shape} {image}, masks {mask}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "table"}

    def _view(self, positions: Positions) -> Self:
        view = type(self).__new__(type(self))
        view._opened, view._positions = self._opened, positions
        return view

    def _at(self, positions: npt.ArrayLike) -> Positions:
        """The directory's positions at these positions of the view."""
        chosen = np.asarray(positions)
        if chosen.size == 0 and chosen.ndim == 1:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            hint = "; where() takes booleans" if chosen.dtype == np.bool_ else ""
            raise TypeError(f"{reprlib.repr(positions)} is not an integer, a slice or a list of integers{hint}")
        outside = chosen[(chosen < -len(self)) | (chosen >= len(self))]
        if outside.size:
            # NumPy would take a large uint64 for a negative position.
            raise IndexError(f"index {outside[0]} is out of bounds for {len(self)} records")
        at: Positions = self._positions[chosen]
        return at

    def _stacked(self, positions: Positions) -> Sample:
        images = np.empty((len(positions), *self.info.image_shape), np.float32)
        masks = np.empty((len(positions), *self.info.mask_shape), self.info.mask_dtype)
        if len(positions):
            self._opened.reader.read(positions, images, masks)
        return images, masks
