"""Opens a records directory once, and its files through it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import pathlib
import stat
import weakref
from collections.abc import Collection
from typing import Any, BinaryIO, Self

from pipeline.errors import RecordsError


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """A file's size in bytes and SHA-256, as 64 hexadecimal digits."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: pathlib.Path) -> Self:
        """Reads the file at ``path``."""
        with path.open("rb") as file:
            return cls(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


class RecordsDirectory:
    """A records directory whose files are opened through one descriptor.

    A path can refer to another directory later: ``--overwrite`` exchanges two directories, and a relative path depends
    on the working directory. The descriptor always refers to the same directory, so manifest, index and shards belong
    together.

    Args:
        path: the directory; messages show it as given here.

    Raises:
        RecordsError: it is missing or not a directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self._absolute = os.path.abspath(path)
        self._open()

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._absolute, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise RecordsError(
                f"{self.path}: cannot be opened as a directory ({error.strerror}); write records with make records"
            ) from error
        # Not at exit: a thread may still be reading then, and the system closes the descriptor anyway.
        weakref.finalize(self, os.close, self._descriptor).atexit = False

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_absolute": self._absolute}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the directory again; its path may refer to another one by then."""
        self.__dict__.update(state)
        self._open()

    def location(self, name: str) -> str:
        """A file's path, as messages show it."""
        return os.fspath(self.path / name)

    def open(self, name: str, expected: FileInfo | None = None) -> BinaryIO:
        """Opens a file for reading.

        Args:
            name: of the file.
            expected: not used; a directory in a store finds the file in the cache by it.

        Raises:
            OSError: it cannot be opened, or is not a regular file.
        """

        def opener(name: str, flags: int) -> int:
            # A pipe in place of a file must not block.
            descriptor = os.open(name, flags | os.O_NONBLOCK, dir_fd=self._descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "not a regular file", name)
            return descriptor

        return open(name, "rb", opener=opener)

    def names(self) -> Collection[str]:
        """What the directory contains."""
        return os.listdir(self._descriptor)

    def stream(self, name: str) -> BinaryIO:
        """Opens a file as :meth:`open`."""
        return self.open(name)

    def size(self, name: str) -> int:
        """The size of a file in bytes.

        Raises:
            OSError: it is missing.
        """
        return self.stat(name).st_size

    def stat(self, name: str) -> os.stat_result:
        """The status of a file.

        Raises:
            OSError: it is missing.
        """
        return os.stat(name, dir_fd=self._descriptor)
