"""Shuffled batches for PyTorch's ``DataLoader``."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import multiprocessing.context
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from pipeline import arguments
from pipeline.batches import Batches
from pipeline.epochs import Epochs, Worker
from pipeline.errors import RecordsError
from pipeline.opening import Opened, open_records
from pipeline.order import Point, Positions
from pipeline.view import Records

try:
    import torch
    import torch.distributed
    import torch.utils.data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pipeline.torch needs PyTorch: pip install torch. iterate_batches gives the same batches as NumPy arrays."
    ) from error

Batch = tuple[torch.Tensor, ...]
"""Images and masks, and positions if the caller wants them."""

# Batches that a background thread prepares ahead if there are no workers, as in iterate_batches.
_PREFETCH = 2


class BatchDataset(torch.utils.data.IterableDataset[Batch]):
    """The batches of :func:`pipeline.iterate_batches` as tensors; each iteration is the next epoch.

    ::

        loader = torch.utils.data.DataLoader(BatchDataset("records"), batch_size=None, num_workers=2)

    The loader gives the same batches in the same order for any number of workers: worker ``w`` of ``W`` reads the
    batches ``w``, ``w + W``, and so on, and the loader takes them in turn. It starts workers by ``fork`` or ``spawn``,
    for each epoch or once (``persistent_workers``). Several loaders may use one object, also at the same time: each
    iteration of any of them is an epoch of its own. An iteration that is left early counts as an epoch.

    torchdata's ``StatefulDataLoader`` saves and restores how far it came, with the same number of workers, batch size
    and share. To resume with others, pass ``start_step``.

    In distributed training, each process reads a share of the records, of equal length. Its rank is that of
    ``torch.distributed`` if that is initialized, else of the environment variables ``RANK`` and ``WORLD_SIZE``, which
    ``torchrun`` sets. It is determined when the object is made: make it in the process that trains.

    A copy of the object counts its epochs from where the original was.

    Args:
        records, split, batch_size, shuffle, seed, drop_remainder, image_dtype, standardize, positions, check_crc:
            as in :func:`pipeline.iterate_batches`.
        start_step: the step to start at, counted over all epochs: the number of batches that the training loop of this
            process has received before.
        shard: ``(rank, world_size)`` if they are not to be determined as above.

    Yields:
        ``(images, masks)``: images float32 (or the stored dtype) ``(batch_size, H, W, 1)``, masks bool of that shape
        (label maps: uint8); with ``positions``, a third tensor, int64 ``(batch_size,)``; index ``Records.table`` by its
        ``numpy()``. ``DataLoader`` makes a list of them.

    Raises:
        TypeError: an argument has the wrong type.
        RecordsError: the directory is missing, incomplete or damaged, or an argument is out of its range. While
            iterating: a record is damaged; the object was made for another rank.
    """

    def __init__(
        self,
        records: str | os.PathLike[str] | Records,
        split: str | None = None,
        batch_size: int = 8,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_remainder: bool = False,
        start_step: int = 0,
        shard: tuple[int, int] | None = None,
        image_dtype: npt.DTypeLike | None = "float32",
        standardize: bool = False,
        positions: bool = False,
        check_crc: bool = True,
    ) -> None:
        self._rank_was_given = shard is not None
        self._opened = open_records(
            records,
            split,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            epochs=1,
            drop_remainder=drop_remainder,
            start_step=start_step,
            shard=_rank() if shard is None else shard,
            image_dtype=image_dtype,
            standardize=standardize,
            positions=positions,
            check_crc=check_crc,
        )
        self._epochs = Epochs(self._opened.start)
        # By process: a worker that is forked starts at zero.
        self._iterations: collections.Counter[int] = collections.Counter()

    def __len__(self) -> int:
        """Batches of an epoch of this process, with all its workers."""
        return self._opened.schedule.steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes an epoch, counted from 0, the next one.

        It is not needed: without it, each iteration is the next epoch.

        Raises:
            TypeError: it is not a whole number.
            RecordsError: it is negative; this is a worker process.
        """
        if torch.utils.data.get_worker_info() is not None:
            raise RecordsError("set_epoch was called in a worker of a DataLoader; call it in the process that trains")
        self._epochs.continue_at(Point(arguments.whole_number("epoch", epoch, 0), 0))

    def __iter__(self) -> _Iteration:
        self._check_rank()
        info = torch.utils.data.get_worker_info()
        worker = None
        if info is not None:
            # DataLoader draws a number when it starts workers, and adds to it the worker's own.
            drawn = [info.seed - info.id, info.num_workers, self._iterations[os.getpid()]]
            worker = Worker(info.id, info.num_workers, drawn, _process_number() - info.id)
            self._iterations[os.getpid()] += 1
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return _Iteration(self._opened, self._epochs, self._epochs.next(worker), share)

    def _check_rank(self) -> None:
        found, expected = _rank(), self._opened.schedule.shard or (0, 1)
        if not self._rank_was_given and found not in (None, expected):
            raise RecordsError(
                f"this BatchDataset was made for (rank, world_size) = {expected}, but this process has {found}; make "
                "it after torch.distributed is initialized, in the process that trains"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A process that is spawned does not know its rank.
        self._check_rank()
        return self.__dict__


class _Iteration(Iterator[Batch]):
    """An epoch, or this worker's batches of it.

    Args:
        opened: the records.
        epochs: which epoch is next.
        start: where the epoch starts, for all workers together.
        worker: ``(index, count)``, this worker.
    """

    def __init__(self, opened: Opened, epochs: Epochs, start: Point, worker: tuple[int, int]) -> None:
        self._opened = opened
        self._epochs = epochs
        self._worker = worker
        self._begin(start, 0)

    def _begin(self, start: Point, given: int) -> None:
        index, count = self._worker
        self._start = start
        self._given = given

        # Batches that are skipped are not read.
        def mine() -> Iterator[tuple[Positions, Point]]:
            return itertools.islice(self._opened.schedule.batches(start), index + given * count, None, count)

        # A worker reads ahead anyway: DataLoader orders several batches (prefetch_factor).
        prefetch = _PREFETCH if torch.utils.data.get_worker_info() is None else 0
        self._batches = Batches(self._opened, prefetch).read(mine)

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._given += 1
        return tuple(map(torch.from_numpy, batch))

    def state_dict(self) -> dict[str, Any]:
        """How far this iteration came, as values that JSON can store; torchdata's ``StatefulDataLoader`` calls it."""
        return {**self._identity, **self._start._asdict(), "batches": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Finishes the epoch of another iteration; the next iteration is the epoch after that.

        Raises:
            TypeError: it is not a mapping.
            RecordsError: it is the state of another order.
        """
        state = arguments.state(state)
        for name, expected in self._identity.items():
            if state.get(name) != expected:
                raise RecordsError(
                    f"the state has {name} {state.get(name)!r}, {expected!r} expected; to resume with another one, "
                    "pass start_step to a new BatchDataset"
                )
        epoch, given, batches = (
            arguments.whole_number(name, state.get(name), 0) for name in ("epoch", "given", "batches")
        )
        self._begin(Point(epoch, given), batches)
        self._epochs.continue_at(Point(epoch + 1, 0))

    @property
    def _identity(self) -> dict[str, Any]:
        """What determines the order, and this worker's part of it."""
        schedule = self._opened.schedule
        return {
            "records": schedule.count,
            "seed": schedule.seed,
            "shuffle": schedule.shuffle,
            "batch_size": schedule.batch_size,
            "drop_remainder": schedule.drop_remainder,
            "shard": list(schedule.shard or (0, 1)),
            "worker": list(self._worker),
        }


def _process_number() -> int:
    """The number of this process among those that its parent started by ``multiprocessing``."""
    return int(multiprocessing.current_process().name.rpartition("-")[2].rpartition(":")[2])


def _rank() -> tuple[int, int] | None:
    """``(rank, world_size)`` of this process in distributed training; None in any other."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return None
