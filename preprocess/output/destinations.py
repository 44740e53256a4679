"""Where workers put the files of a job: in a directory of this machine, or in a folder of a store."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

from pipeline import schema
from preprocess import urls
from preprocess.urls import Url

# Bytes of one request. The first keeps a shard of the usual size in one piece: S3 keeps the pieces of an upload that is
# never completed. Cloud Storage removes them after a week, and a request to it may take 60 seconds.
_PIECE_BYTES = {"s3": 1 << 27, "gs": 1 << 24}

# Each takes its size of memory, in each worker. (gcsfs sends one after the other.)
_PIECES_AT_ONCE = 2


class Destination(Protocol):
    """A place for files, the same for every process of a job. Each file appears complete or not at all."""

    @property
    def prefix(self) -> str:
        """What the names of files begin with there."""

    @property
    def scratch(self) -> pathlib.Path | None:
        """Where files are written before they are put there; None for the system's temporary directory."""

    def put(self, file: pathlib.Path, name: str) -> None:
        """Moves a file there, and replaces one of that name. :meth:`settle` makes it a part of the records.

        Args:
            file: a file below ``scratch``.
            name: its name, without ``prefix``; so in all methods.

        Raises:
            OSError: it cannot be written.
            FatalInputError: the store does not take it; so in all methods.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file; raises as :meth:`put`."""

    def read(self, name: str) -> bytes:
        """The content of a small file; raises as :meth:`put`."""

    def settle(self, name: str, final: str) -> None:
        """Gives a file that was put there its name in the records; raises as :meth:`put`.

        A task that a cluster repeats may put its file again, also after that.
        """

    def temporary(self) -> contextlib.AbstractContextManager[Destination]:
        """A place for files that are removed at the end of a ``with`` block."""


@dataclasses.dataclass(frozen=True)
class Directory:
    """A directory of this machine, or of a disk that several share.

    Attributes:
        path: of the directory.
        scratch: a directory on the same file system, or ``path``. Files are put there until they are settled.
    """

    path: pathlib.Path
    scratch: pathlib.Path

    prefix = ""

    @classmethod
    def at(cls, path: pathlib.Path) -> Self:
        """A directory in which files are written, too, before they have their names."""
        return cls(path, path)

    def put(self, file: pathlib.Path, name: str) -> None:
        file.replace(self.scratch / name)

    def write(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            file = pathlib.Path(folder, name)
            file.write_bytes(content)
            file.replace(self.path / name)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def settle(self, name: str, final: str) -> None:
        (self.scratch / name).replace(self.path / final)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Directory]:
        with tempfile.TemporaryDirectory(dir=self.path) as name:
            yield Directory.at(pathlib.Path(name))


@dataclasses.dataclass(frozen=True)
class Objects:
    """A folder of a store, in which all names begin with the token of the job: no object replaces that of another job.

    Attributes:
        url: of the folder.
        prefix: what the names begin with.
    """

    url: Url
    prefix: str

    scratch = None

    @classmethod
    def of_job(cls, url: Url, job: str) -> Self:
        """Those of the job with this token."""
        return cls(url, schema.job_prefix(job))

    def put(self, file: pathlib.Path, name: str) -> None:
        with urls.writing(self.url):
            pieces = _PIECE_BYTES[self.url.scheme]
            self._filesystem.put_file(
                os.fspath(file), self._path(name), chunksize=pieces, max_concurrency=_PIECES_AT_ONCE
            )

    def write(self, name: str, content: bytes) -> None:
        with urls.writing(self.url):
            self._filesystem.pipe_file(self._path(name), content, chunksize=_PIECE_BYTES[self.url.scheme])

    def read(self, name: str) -> bytes:
        with urls.writing(self.url):
            return bytes(self._filesystem.cat_file(self._path(name)))

    def settle(self, name: str, final: str) -> None:
        if name == final:
            return
        # Stores only copy.
        with urls.writing(self.url):
            self._filesystem.cp_file(self._path(name), self._path(final))
            self._filesystem.rm_file(self._path(name))

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Objects]:
        objects = Objects(self.url, f"{self.prefix}staging-{uuid.uuid4().hex[:8]}-")
        try:
            yield objects
        finally:
            objects.remove(objects.listed())

    def listed(self) -> dict[str, Any]:
        """What the store says of each object whose name begins with ``prefix``, by name with ``prefix``."""
        with urls.writing(self.url):
            found: Mapping[str, Any] = self._filesystem.find(self.url.path, prefix=self.prefix, detail=True)
        # Consoles create objects that stand for a folder.
        return {
            name.removeprefix(f"{self.url.path}/"): entry
            for name, entry in found.items()
            if name.rstrip("/") != self.url.path
        }

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects by their names with ``prefix``; those that are gone already do not matter."""
        paths = [f"{self.url.path}/{name}" for name in names]
        with urls.writing(self.url), contextlib.suppress(FileNotFoundError):
            if paths:
                self._filesystem.rm(paths)

    @property
    def _filesystem(self) -> Any:
        return urls.filesystem(self.url)

    def _path(self, name: str) -> str:
        return f"{self.url.path}/{self.prefix}{name}"
