"""Worker processes of this machine.

A worker may die at any moment: a codec may crash it, the system may kill it for its memory, or an operator may. Another
worker then repeats its task. A file is refused only if it was the last file opened at two deaths of the same task. A
worker that has a file open for too long ends itself; that is a death, too, and gets a second try, because storage can
stall for a moment and a job can be stopped and continued.

No library's process pool is used, because none reports which file a worker opened last, and because their workers share
one pipe, which a worker that is killed while it sends a result blocks forever. Here each worker has its own.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
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
from preprocess.engines.worker import OUT_OF_MEMORY, PATH_BYTES, PATH_ENCODING, SharedPath, Work, serve
from preprocess.findings import FatalInputError

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

WORKER_BYTES = 4 << 30
"""Address space that a worker may allocate after its start; the largest allowed image takes a quarter of it."""

# Results are yielded in order. Tasks further ahead of the next result than this, for each worker, are not started.
_AHEAD = 4

# Open files of this process and of the server that starts workers: without workers, and for each worker.
_OPEN_FILES, _OPEN_FILES_EACH = 14, 2

# The job ends after so many processes of a task died without an open file.
_MAX_UNEXPLAINED = 3


class Local:
    """Processes of this machine.

    Args:
        config: the settings. At most ``workers`` processes run; a low limit on open files allows fewer.
        worker_bytes: address space that each may allocate after its start.
    """

    def __init__(self, config: Config, worker_bytes: int = WORKER_BYTES) -> None:
        self._config = config
        self._most = config.workers
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if open_files != resource.RLIM_INFINITY:
            self._most = min(self._most, max(1, (open_files - _OPEN_FILES) // _OPEN_FILES_EACH))
        self._worker_bytes = worker_bytes
        # Not a fork of this process, which may have threads. The server imports what workers need, once.
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
        """Gives the tasks with numbers below a limit to idle and new workers."""
        while tasks and tasks[0].number < limit and len(self._busy) < self._most:
            task = tasks.popleft()
            try:
                worker = self._idle_worker() or _Worker.start(self._context, self._config, self._worker_bytes)
            except (EOFError, OSError) as error:
                task.died(None, f"cannot be started: {getattr(error, 'strerror', None) or error}")
                tasks.appendleft(task)
                return
            worker.task, worker.opened.value = task, b""
            self._busy[worker.connection] = worker
            # Sending fails if the worker has ended; reading from it then reports that.
            with contextlib.suppress(OSError):
                worker.connection.send((task.work, task.item, task.refused))

    def _idle_worker(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            # An idle worker sends nothing, so if there is something to read, it has ended.
            if not worker.connection.poll():
                return worker
            worker.end()
        return None

    def _receive(self, worker: _Worker, tasks: collections.deque[_Task], results: dict[int, Any]) -> None:
        """Handles the result of a worker, or its end."""
        try:
            message = worker.connection.recv()
        # OSError: the worker ended within a message.
        except (EOFError, OSError):
            del self._busy[worker.connection]
            worker.task.died(worker.opened.value.decode(*PATH_ENCODING) or None, worker.end())
            tasks.appendleft(worker.task)
            return
        if isinstance(message, FatalInputError):
            raise message
        self._idle.append(self._busy.pop(worker.connection))
        results[worker.task.number] = message.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes; the next :meth:`map` starts others."""
        workers = [*self._idle, *self._busy.values()]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.end()
        self._idle.clear()
        self._busy.clear()


@dataclasses.dataclass
class _Task:
    """An item to work on.

    Attributes:
        number: position of the item among all.
        deaths: for each process that died while it worked on the item, the file that it opened last; None without one.
        refused: the files that were the last opened at two deaths, and how the second process died.
    """

    number: int
    work: Work[Any, Any]
    item: Any
    deaths: list[str | None] = dataclasses.field(default_factory=list)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)

    def died(self, opened: str | None, how: str) -> None:
        """Notes that a process died, the file that it opened last, and how it ended.

        Raises:
            FatalInputError: too many processes died without an open file.
        """
        self.deaths.append(opened)
        times = self.deaths.count(opened)
        if opened is None and times == _MAX_UNEXPLAINED:
            raise FatalInputError(
                "worker process",
                f"{how}; tried {_MAX_UNEXPLAINED} times, and it was not reading a file. Lower --workers, or raise "
                "the limits on memory (ulimit -v) and open files (ulimit -n)",
            )
        if opened is not None and times == 1:
            _log.warning("%s: the process that read it died (%s); another one reads it", opened, how)
        elif opened is not None:
            self.refused[opened] = how
            _log.warning("%s: the process that read it died again (%s); the file is left out", opened, how)


@dataclasses.dataclass
class _Worker:
    """A process and its task.

    Attributes:
        connection: to the process.
        opened: path of the last file that it opened for the task, in memory that both share: a message for each file
            would take this process more time than all its other work.
    """

    process: ForkServerProcess
    connection: multiprocessing.connection.Connection
    opened: SharedPath
    task: _Task = dataclasses.field(init=False)

    @classmethod
    def start(cls, context: ForkServerContext, config: Config, worker_bytes: int) -> Self:
        """Starts a process. It ends when its connection closes, so also when this process is killed."""
        ours, theirs = context.Pipe()
        # The first start also starts the server. It would start the tracker, too, which unblocks Ctrl-C afterwards.
        multiprocessing.resource_tracker.ensure_running()
        opened = context.RawArray(ctypes.c_char, PATH_BYTES)
        process = context.Process(target=serve, args=(theirs, opened, config, worker_bytes), daemon=True)
        with theirs, interrupts.kept_from_children():
            process.start()
        return cls(process, ours, opened)

    def end(self) -> str:
        """Waits for the process; returns how it ended."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code == OUT_OF_MEMORY:
            return "out of memory"
        if code == -signal.SIGALRM:
            return "it took longer than --file_timeout_s"
        if code >= 0:
            return f"exit status {code}"
        return next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
