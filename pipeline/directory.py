"""Opens a records directory once, and its files through it."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import weakref
from typing import Any, BinaryIO

from pipeline.errors import RecordsError


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

    @classmethod
    def of(cls, directory: str | os.PathLike[str] | RecordsDirectory) -> RecordsDirectory:
        """``directory`` itself if it is open already, otherwise the directory at that path."""
        return directory if isinstance(directory, RecordsDirectory) else cls(directory)

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

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading.

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

    def stat(self, name: str) -> os.stat_result:
        """The status of a file.

        Raises:
            OSError: it is missing.
        """
        return os.stat(name, dir_fd=self._descriptor)
