"""Which epoch is next, for the processes of a ``DataLoader`` that iterate over copies of a data set."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing.context
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.errors import RecordsError
from pipeline.order import Point

_Started = dict[str, Any]
"""An iteration that some workers have started, as a JSON object."""


class Worker(NamedTuple):
    """A worker process of a DataLoader, in one iteration.

    Attributes:
        id: from 0.
        num_workers: of this loader.
        drawn: numbers that all workers of an iteration have. Those of another iteration differ, unless the same seed
            was set before both.
        first: the number of worker 0's process, among all that the main process has started.
    """

    id: int
    num_workers: int
    drawn: list[int]
    first: int


class Epochs:
    """Which epoch is next, for all processes that iterate over copies of a data set.

    DataLoader calls nothing in the main process when an iteration starts. Each worker starts by itself, and may be
    ended before it does, so that workers which count their own iterations can come to differ. Therefore the start of
    the next iteration is in a temporary file: the first worker of an iteration takes it, and the others find it there.
    A file works for workers of every start method.

    Args:
        start: where the first iteration starts.
    """

    def __init__(self, start: Point) -> None:
        self._create(start)

    def _create(self, start: Point) -> None:
        descriptor, self._path = tempfile.mkstemp(prefix="cardiac-lv-records-", suffix=".json")
        weakref.finalize(self, _remove, self._path, os.getpid())
        with open(descriptor, "w") as file:
            json.dump({"next": start, "iterations": []}, file)

    def continue_at(self, point: Point) -> None:
        """Sets where the next iteration starts."""
        with self._locked() as ledger:
            ledger["next"] = point

    def next(self, worker: Worker | None) -> Point:
        """Where the iteration starts that this process, or this worker, starts.

        Raises:
            RecordsError: it cannot be known which iteration the worker belongs to.
        """
        with self._locked() as ledger:
            iteration = None if worker is None else _iteration_of(worker, ledger["iterations"])
            if iteration is None:
                iteration = {"start": ledger["next"], "workers": []}
                ledger["next"] = Point(ledger["next"][0] + 1, 0)
                if worker is not None:
                    iteration |= {"drawn": worker.drawn, "first": worker.first, "process": os.getpid()}
                    ledger["iterations"].append(iteration)
            if worker is not None:
                iteration["workers"].append(worker.id)
                if len(iteration["workers"]) == worker.num_workers:
                    ledger["iterations"].remove(iteration)
            return Point(*iteration["start"])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """The content of the file, which is written back."""
        with open(self._path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                ledger = json.load(file)
                yield ledger
                file.seek(0)
                json.dump(ledger, file)
                file.truncate()
            finally:
                # Closing alone does not unlock it if another thread has forked in the meantime.
                fcntl.flock(file, fcntl.LOCK_UN)

    def __getstate__(self) -> dict[str, Any]:
        if multiprocessing.context.get_spawning_popen() is not None:
            return {"path": self._path}
        with self._locked() as ledger:
            return {"start": ledger["next"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "path" in state:
            self._path = state["path"]
        else:
            self._create(Point(*state["start"]))


def _iteration_of(worker: Worker, iterations: list[_Started]) -> _Started | None:
    """The iteration that other workers have started and this one belongs to; None if this one is the first.

    ``iterations`` are those that some of their workers have not started.

    Raises:
        RecordsError: it cannot be known.
    """
    for iteration in reversed(iterations):
        if iteration["drawn"] != worker.drawn:
            continue
        # DataLoader starts its workers one after the other; another thread may have started a process in between.
        if 0 <= worker.first - iteration["first"] < worker.num_workers and worker.id not in iteration["workers"]:
            return iteration
        # The seed was set again, after an iteration that was left before all of its workers had started.
        if _is_running(iteration["process"]):
            raise RecordsError(
                "two iterations over one BatchDataset start at the same time and with the same random seed; make a "
                "BatchDataset for each"
            )
    return None


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
