"""Worker processes of this machine.

A worker may die at any moment: killed by a codec's fault, by the system for its memory, or by an operator. Its task is
then done again by another worker. A file is refused only when it was opened last at two deaths of the same task.

Not a library's process pool: none reports which file a worker opened last, and those of ``concurrent.futures`` and
pebble 5.2 wait forever when a worker is killed while it sends a result, because all workers share one pipe. Here each
worker has its own.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import resource
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Self, TypeVar

from preprocess import interrupts
from preprocess.config import Config
from preprocess.engines.worker import OUT_OF_MEMORY, Fails, Gives, Opens, Order, Work, serve
from preprocess.findings import FatalInputError

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

WORKER_BYTES = 4 << 30
"""Address space that a worker may take beyond what it starts with; the largest image allowed takes a quarter of it."""

# Results wait for those before them; tasks further ahead than this are not started meanwhile.
_AHEAD = 4

# Open files of this process and of the server that starts workers: at rest, and for each worker.
_OPEN_FILES, _OPEN_FILES_EACH = 14, 2

# Deaths of a task's processes without an open file, after which the job ends.
_MAX_UNEXPLAINED = 3


class Local:
    """Processes of this machine.

    Args:
        config: settings; ``workers`` processes, or as many as the limit on open files allows.
        worker_bytes: address space that each may take beyond what it starts with.
    """

    def __init__(self, config: Config, worker_bytes: int = WORKER_BYTES) -> None:
        self._config = config
        self._most = config.workers
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if open_files != resource.RLIM_INFINITY:
            self._most = min(self._most, max(1, (open_files - _OPEN_FILES) // _OPEN_FILES_EACH))
        self._worker_bytes = worker_bytes
        # Not a fork of this process, which has TensorFlow's threads; the server has imported what workers need.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["preprocess.stages.load", "preprocess.stages.render"])
        self._idle: list[_Worker] = []
        self._busy: dict[multiprocessing.connection.Connection, _Worker] = {}

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        tasks = collections.deque(_Task(number, work, item) for number, item in enumerate(items))
        results: dict[int, _Result] = {}
        for number in range(len(items)):
            while number not in results:
                self._hand_out(tasks, number + _AHEAD * self._most)
                ready = multiprocessing.connection.wait(list(self._busy), timeout=None if self._busy else 0)
                for worker in [worker for connection, worker in self._busy.items() if connection in ready]:
                    self._receive(worker, tasks, results)
            yield results.pop(number)

    def _hand_out(self, tasks: collections.deque[_Task], limit: int) -> None:
        """Gives tasks below a number to idle and new workers."""
        while tasks and tasks[0].number < limit and len(self._busy) < self._most:
            task = tasks.popleft()
            try:
                worker = self._idle_worker() or _Worker.start(self._context, self._config, self._worker_bytes)
            except (EOFError, OSError) as error:
                tasks.appendleft(task.again(None, f"cannot be started: {getattr(error, 'strerror', None) or error}"))
                return
            worker.task, worker.opened = task, None
            self._busy[worker.connection] = worker
            # Sending to a worker that has ended fails; reading from it then reports its end.
            with contextlib.suppress(OSError):
                worker.connection.send(Order(task.work, task.item, task.refused))

    def _idle_worker(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            # An idle worker sends nothing: all that can be read from it is its end.
            if not worker.connection.poll():
                return worker
            worker.end()
        return None

    def _receive(self, worker: _Worker, tasks: collections.deque[_Task], results: dict[int, Any]) -> None:
        """Takes one message from a worker, or its end."""
        try:
            message = worker.connection.recv()
        # OSError: it ended within a message.
        except (EOFError, OSError):
            del self._busy[worker.connection]
            tasks.appendleft(worker.task.again(worker.opened, worker.end()))
            return
        match message:
            case Opens(path):
                worker.opened = path
            case Gives(result):
                self._idle.append(self._busy.pop(worker.connection))
                results[worker.task.number] = result
            case Fails(path, detail):
                raise FatalInputError(path, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        workers = [*self._idle, *self._busy.values()]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.end()


@dataclasses.dataclass(frozen=True)
class _Task:
    """An item to work on, and what happened to the processes that tried.

    Attributes:
        number: place of the item among all.
        suspected: files that a process had opened last when it died.
        refused: files that two processes had opened last when they died.
        unexplained: how many processes died without an open file.
    """

    number: int
    work: Work[Any, Any]
    item: Any
    suspected: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    unexplained: int = 0

    def again(self, opened: str | None, how: str) -> _Task:
        """The task as it is tried next, after its process died.

        Args:
            opened: the file that the process opened last.
            how: how it ended.

        Raises:
            FatalInputError: too many processes died without an open file.
        """
        if opened is None:
            if self.unexplained + 1 == _MAX_UNEXPLAINED:
                raise FatalInputError(
                    "worker process",
                    f"{how}; tried {_MAX_UNEXPLAINED} times, and it was not reading a file. Lower --workers, or raise "
                    "the limits on memory (ulimit -v) and open files (ulimit -n)",
                )
            return dataclasses.replace(self, unexplained=self.unexplained + 1)
        if opened not in self.suspected:
            _log.warning("%s: the process that read it ended (%s); it is read again", opened, how)
            return dataclasses.replace(self, suspected=self.suspected | {opened})
        _log.warning("%s: the process that read it ended again (%s); it is left out", opened, how)
        return dataclasses.replace(self, refused=self.refused | {opened})


@dataclasses.dataclass
class _Worker:
    """A process, its task, and the file that it opened last for it."""

    process: ForkServerProcess
    connection: multiprocessing.connection.Connection
    task: _Task = dataclasses.field(init=False)
    opened: str | None = None

    @classmethod
    def start(cls, context: ForkServerContext, config: Config, worker_bytes: int) -> Self:
        """Starts a process; it ends when its connection does, so also when this process is killed."""
        ours, theirs = context.Pipe()
        # The first start also starts the server, and would start the tracker, which unblocks Ctrl-C afterwards.
        multiprocessing.resource_tracker.ensure_running()
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            process = context.Process(target=serve, args=(theirs, config, worker_bytes), daemon=True)
            with interrupts.kept_from_children():
                process.start()
            on_error.pop_all()
        return cls(process, ours)

    def end(self) -> str:
        """Waits for the process, and says how it ended."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code == OUT_OF_MEMORY:
            return "out of memory"
        if code >= 0:
            return f"exit status {code}"
        return next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
