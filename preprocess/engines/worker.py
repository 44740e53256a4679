"""What a worker process does, and the messages between it and the coordinating process."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import BinaryIO, Generic, TypeVar

import cv2

from preprocess.config import Config
from preprocess.findings import FatalInputError, Finding
from preprocess.inputs import sources
from preprocess.inputs.sources import Source

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Work = Callable[[Source, Config, _Item], _Result]
"""The function that an engine calls for each item."""

OUT_OF_MEMORY = errno.ENOMEM
"""Exit status of a worker that cannot allocate memory."""


@dataclasses.dataclass(frozen=True)
class Order(Generic[_Item, _Result]):
    """To a worker: what to do."""

    work: Work[_Item, _Result]
    item: _Item
    refused: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Opens:
    """From a worker: it opens a file. None: it is done with its files, and sends its result next."""

    path: str | None


@dataclasses.dataclass(frozen=True)
class Gives(Generic[_Result]):
    """From a worker: the result of its task."""

    result: _Result


@dataclasses.dataclass(frozen=True)
class Fails:
    """From a worker: an error that ends the job."""

    path: str
    detail: str


def serve(connection: Connection, config: Config, worker_bytes: int) -> None:
    """The main function of a worker, which receives orders and sends results through its connection."""
    # Ctrl-C goes to all processes of a terminal; the coordinating process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # The other end closes when the coordinating process ends.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _limit_memory(worker_bytes)
            source = sources.reopen(config.data_dir)
            while True:
                order = connection.recv()
                reply = _reply(_ReportingSource(source, connection, order.refused), config, order)
                connection.send(Opens(None))
                connection.send(reply)
        except FatalInputError as error:
            connection.send(Fails(error.path, error.detail))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


def _limit_memory(more: int) -> None:
    """Limits the address space to its size now and ``more`` bytes, or to an existing limit if that is lower."""
    pages = int(pathlib.Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))


def _reply(source: Source, config: Config, order: Order[_Item, _Result]) -> Gives[_Result] | Fails:
    try:
        return Gives(order.work(source, config, order.item))
    except (FatalInputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM:
            raise MemoryError from error
        # The error's text is left out, because it may quote a DICOM header.
        frames = traceback.extract_tb(error.__traceback__)
        calls = " > ".join(f"{pathlib.Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        return Fails("worker process", f"{type(error).__name__} at {calls}; this is a bug, please report it")


@dataclasses.dataclass(frozen=True)
class _ReportingSource:
    """A source that reports each file before it opens it, and refuses some files."""

    source: Source
    connection: Connection
    refused_paths: frozenset[str]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def paths(self) -> Sequence[str]:
        return self.source.paths

    @property
    def findings(self) -> Sequence[Finding]:
        return self.source.findings

    def open(self, path: str) -> BinaryIO:
        if path in self.refused_paths:
            raise OSError("the process that read it died, twice")
        self.connection.send(Opens(path))
        return self.source.open(path)
