"""Worker processes of this machine.

Not a process pool of the standard library, for those do not tell which file a worker was at when it died.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import pathlib
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any, BinaryIO, Generic, TypeVar

import cv2

from preprocess import interrupts, sources
from preprocess.config import Config
from preprocess.sources import Source

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Work = Callable[[Source, Config, _Item], _Result]
"""What is done for each item."""

_WORKER_BYTES = 4 << 30
"""Address space that a worker may take beyond what it begins with; the largest image allowed takes a quarter of it."""

# Results wait for those before them; more than these are not begun meanwhile.
_AHEAD = 4


class Local:
    """Processes of this machine.

    A worker tells which file it opens. When it dies, killed by a codec's fault or by the system for its memory, that
    file is refused from then on, like one that cannot be read, and the item is worked on anew: the loss is the file's.

    Args:
        config: settings; ``workers`` processes.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        # Not a fork of this process, which has TensorFlow's threads; the server has imported what workers need.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["preprocess.examine", "preprocess.rendering"])
        self._idle: list[_Worker] = []
        self._busy: dict[multiprocessing.connection.Connection, _Worker] = {}

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        tasks = collections.deque(_Task(number, item) for number, item in enumerate(items))
        results: dict[int, _Result] = {}
        for number in range(len(items)):
            while number not in results:
                self._begin(work, tasks, number + _AHEAD * self._config.workers)
                spoken = multiprocessing.connection.wait(list(self._busy))
                for connection in [one for one in self._busy if one in spoken]:
                    self._hear(connection, tasks, results)
            yield results.pop(number)

    def _begin(self, work: Work[_Item, _Result], tasks: collections.deque[_Task[_Item]], limit: int) -> None:
        """Gives tasks below a number to idle workers."""
        while tasks and tasks[0].number < limit and len(self._busy) < self._config.workers:
            task = tasks.popleft()
            worker = self._idle.pop() if self._idle else _Worker.start(self._context, self._config)
            worker.task, worker.opened = task, None
            worker.connection.send((work, task.item, task.deadly))
            self._busy[worker.connection] = worker

    def _hear(
        self,
        connection: multiprocessing.connection.Connection,
        tasks: collections.deque[_Task[_Item]],
        results: dict[int, _Result],
    ) -> None:
        """Takes one message from a worker."""
        worker = self._busy[connection]
        try:
            message, content = connection.recv()
        except (EOFError, ConnectionResetError):
            del self._busy[connection]
            tasks.appendleft(worker.without_the_file(worker.end()))
            return
        if message == "opens":
            worker.opened = content
            return
        self._idle.append(self._busy.pop(connection))
        if message == "fails":
            raise RuntimeError(f"a worker failed:\n{content}")
        if message == "has no memory":
            tasks.appendleft(worker.without_the_file("out of memory"))
        else:
            results[worker.task.number] = content

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.connection.close()
            worker.process.terminate()
        for worker in (*self._idle, *self._busy.values()):
            worker.process.join()


@dataclasses.dataclass(frozen=True)
class _Task(Generic[_Item]):
    """An item to be worked on, and the files that have ended a process."""

    number: int
    item: _Item
    deadly: frozenset[str] = frozenset()


@dataclasses.dataclass
class _Worker:
    """A process, what it works on, and the file that it opened last."""

    process: ForkServerProcess
    connection: multiprocessing.connection.Connection
    task: _Task[Any] = _Task(-1, None)
    opened: str | None = None

    @classmethod
    def start(cls, context: multiprocessing.context.ForkServerContext, config: Config) -> _Worker:
        """Starts a process; it ends when its connection does, so also when this process is killed."""
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, config), daemon=True)
        # The first one starts the server, too, and would start the tracker first, which unblocks Ctrl-C afterwards.
        multiprocessing.resource_tracker.ensure_running()
        with interrupts.kept_from_children():
            process.start()
        theirs.close()
        return cls(process, ours)

    def end(self) -> str:
        """How the process has ended."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def without_the_file(self, how: str) -> _Task[Any]:
        """The task again, without the file that was too much for the process.

        Raises:
            RuntimeError: no file is to blame.
        """
        if self.opened is None or self.opened in self.task.deadly:
            raise RuntimeError(f"a worker ended ({how}), and no file is to blame for it")
        _log.warning("%s: the process that read it ended (%s); it is left out", self.opened, how)
        return dataclasses.replace(self.task, deadly=self.task.deadly | {self.opened})


def _serve(connection: multiprocessing.connection.Connection, config: Config) -> None:
    """What a worker does: tasks come, and results go, through its connection."""
    # Ctrl-C goes to all processes of a terminal; the one that coordinates ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    pages = int(pathlib.Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _WORKER_BYTES,) * 2)
    source = sources.reopen(config.data_dir)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            work, item, deadly = connection.recv()
            try:
                result = "gives", work(_Told(source, connection, deadly), config, item)
            except MemoryError:
                result = "has no memory", None
            except Exception:
                result = "fails", traceback.format_exc()
            connection.send(result)


@dataclasses.dataclass(frozen=True)
class _Told:
    """A source that tells through a connection which file is opened next, and refuses some."""

    source: Source
    connection: multiprocessing.connection.Connection
    deadly: frozenset[str]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def paths(self) -> Sequence[str]:
        return self.source.paths

    @property
    def refused(self) -> Sequence[str]:
        return self.source.refused

    def open(self, path: str) -> BinaryIO:
        if path in self.deadly:
            raise OSError("the process that read it ended")
        self.connection.send(("opens", path))
        return self.source.open(path)
