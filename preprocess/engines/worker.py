"""What a worker process does."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import pathlib
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, TypeVar

import cv2

from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.inputs import sources
from preprocess.inputs.sources import Source

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Work = Callable[[Source, Config, _Item], _Result]
"""The function that an engine calls for each item."""

OUT_OF_MEMORY = errno.ENOMEM
"""Exit status of a worker that cannot allocate memory."""


PATH_BYTES = 1 << 17
"""Room for the longest path. A name in an archive has at most 65,535 bytes."""

PATH_ENCODING = "utf-8", "surrogatepass"

SharedPath = ctypes.Array[ctypes.c_char]
"""A path that two processes see."""


@dataclasses.dataclass(frozen=True)
class Done:
    """The result of a task."""

    result: Any


def serve(connection: Connection, opened: SharedPath, config: Config, worker_bytes: int) -> None:
    """The main function of a worker process.

    For each task it receives the function, the item, and the paths that are refused with the reasons. It notes the path
    of each file in ``opened`` before it opens it, and sends :class:`Done`, or a FatalInputError.

    SIGALRM ends it if a file stays open for longer than ``config.file_timeout_s``.
    """
    # Ctrl-C goes to all processes of a terminal; the coordinating process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The system's own action, because Python's handlers wait for a codec that never returns.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    # The other end closes when the coordinating process ends.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _limit_memory(worker_bytes)
            source = sources.reopen(config.data_dir)
            while True:
                work, item, refused = connection.recv()
                result = _call(work, _Watched(source, opened, refused, config.file_timeout_s), config, item)
                opened.value = b""
                connection.send(Done(result))
        except FatalInputError as error:
            connection.send(error)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


def _limit_memory(more: int) -> None:
    """Limits the address space to its size now and ``more`` bytes, or to an existing limit if that is lower."""
    pages = int(pathlib.Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))


def _call(work: Work[_Item, _Result], source: Source, config: Config, item: _Item) -> _Result:
    """The result of a task; a bug in it becomes a FatalInputError."""
    try:
        return work(source, config, item)
    except (FatalInputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM:
            raise MemoryError from error
        # The error's text is left out, because it may quote a DICOM header.
        frames = traceback.extract_tb(error.__traceback__)
        calls = " > ".join(f"{pathlib.Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        detail = f"{type(error).__name__} at {calls}; this is a bug, please report it"
        raise FatalInputError("worker process", detail) from error


@dataclasses.dataclass(frozen=True)
class _Watched:
    """A source that reports each file before it opens it, and limits how long it is open.

    Attributes:
        source: the data set.
        opened: where the coordinating process finds the path.
        refused: how the process that read a file died the second time, by path.
        timeout_s: how long a file may stay open.
    """

    source: Source
    opened: SharedPath
    refused: Mapping[str, str]
    timeout_s: float

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        if path in self.refused:
            raise OSError(f"the process that read it died twice ({self.refused[path]})")
        self.opened.value = path.encode(*PATH_ENCODING)
        # What follows the last file, such as measuring and writing, is not reading: the clock stops with each file.
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            with self.source.open(path) as file:
                yield file
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
