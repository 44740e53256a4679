"""Where the work runs: on this machine's cores, or on Apache Beam.

An engine calls a function ``work(source, config, item)`` for each item, in other processes, and gives the results in
the items' order. So what is written depends on the items alone, whatever the engine and the number of its processes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import pickle
import resource
import shlex
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import cv2

from preprocess import sources
from preprocess.config import Config
from preprocess.errors import InputError
from preprocess.sources import Source

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Work = Callable[[Source, Config, _Item], _Result]

_WORKER_BYTES = 4 << 30
"""Address space that a worker may take beyond what it begins with; the largest image allowed takes a quarter of it."""

# Results wait for those before them; more than these are not begun meanwhile.
_AHEAD = 4


class Engine(Protocol):
    """Where the work runs."""

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        """Yields ``work(source, config, item)`` of each item, in order."""


@contextlib.contextmanager
def engine(config: Config, staging: pathlib.Path) -> Iterator[Engine]:
    """The engine that the settings name, for the length of a ``with`` block.

    Args:
        config: settings.
        staging: an empty directory; with Beam, one that all its workers see.
    """
    if config.engine == "beam":
        yield Beam(config, staging)
    else:
        with Local(config) as local:
            yield local


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


class Beam:
    """Apache Beam, on whatever runner its arguments name.

    Items and results go through files, each put into place in one step: an item that a runner works on twice, because a
    worker was lost or was slow, still has one result.

    Args:
        config: settings; ``beam_args`` go to Beam.
        staging: a directory that all workers see.

    Raises:
        InputError: Beam is not installed.
    """

    def __init__(self, config: Config, staging: pathlib.Path) -> None:
        if importlib.util.find_spec("apache_beam") is None:
            raise InputError("--engine=beam", "Apache Beam is not installed; pip install -r requirements-beam.txt")
        self._config = config
        self._staging = staging

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        with tempfile.TemporaryDirectory(dir=self._staging) as name:
            directory = pathlib.Path(name)
            for number, item in enumerate(items):
                (directory / f"{number}.item").write_bytes(pickle.dumps(item))
            with beam.Pipeline(options=PipelineOptions(shlex.split(self._config.beam_args))) as pipeline:
                numbers = pipeline | beam.Create(range(len(items))) | beam.Reshuffle()
                _ = numbers | beam.Map(_work_on_file, directory, work, self._config)
            for number in range(len(items)):
                yield pickle.loads((directory / f"{number}.result").read_bytes())


def _work_on_file(number: int, directory: pathlib.Path, work: Work[Any, Any], config: Config) -> None:
    """Works on an item that lies in a file, and leaves the result beside it."""
    item = pickle.loads((directory / f"{number}.item").read_bytes())
    result = work(_reopened(config.data_dir), config, item)
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        pickle.dump(result, file)
    os.replace(file.name, directory / f"{number}.result")


_reopened = functools.lru_cache(maxsize=1)(sources.reopen)
