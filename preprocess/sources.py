"""The files of a folder or of a zip archive, which read alike.

An archive is read in place and never unpacked, so an entry has no place outside to be written to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol, Self, cast

from preprocess.errors import InputError


class Source(Protocol):
    """Files by path, relative to a folder or an archive, with forward slashes."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def paths(self) -> Sequence[str]:
        """Every file, sorted."""

    def open(self, path: str) -> BinaryIO:
        """Opens a file of ``paths``; raises OSError where it cannot be."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder. Links to folders are followed, each folder once."""

    root: pathlib.Path
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        return os.fspath(self.root)

    @classmethod
    def list(cls, root: pathlib.Path) -> Self:
        """Lists every file below ``root``."""
        paths: list[str] = []
        seen = set()
        for folder, subfolders, files in os.walk(root, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders.sort()
            relative = pathlib.Path(folder).relative_to(root)
            paths.extend((relative / file).as_posix() for file in files)
        return cls(root, tuple(sorted(paths)))

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")


@dataclasses.dataclass(frozen=True)
class Archive:
    """The files of a zip archive."""

    root: pathlib.Path
    paths: tuple[str, ...]
    file: zipfile.ZipFile

    @property
    def name(self) -> str:
        return os.fspath(self.root)

    @classmethod
    def list(cls, root: pathlib.Path) -> Self:
        """Lists every file in the archive at ``root``.

        Raises:
            InputError: it is not a zip archive.
        """
        try:
            file = zipfile.ZipFile(root)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(os.fspath(root), f"cannot be read as a zip archive ({error})") from error
        return cls(root, tuple(sorted(entry.filename for entry in file.infolist() if not entry.is_dir())), file)

    def open(self, path: str) -> BinaryIO:
        try:
            return cast(BinaryIO, self.file.open(path))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            # RuntimeError: the entry is encrypted. NotImplementedError: a compression that zipfile does not know.
            raise OSError(str(error)) from error


def reopen(data_dir: str | os.PathLike[str]) -> Source:
    """A folder or a zip archive without its list: for another process, which is told what to open.

    Raises:
        InputError: it is an archive, and cannot be read any more.
    """
    root = pathlib.Path(data_dir)
    return Folder(root, ()) if root.is_dir() else Archive.list(root)


def open_source(data_dir: str | os.PathLike[str]) -> Source:
    """Lists a folder or a zip archive.

    Raises:
        InputError: it is neither.
    """
    root = pathlib.Path(data_dir)
    if root.is_dir():
        return Folder.list(root)
    if root.is_file():
        return Archive.list(root)
    raise InputError(os.fspath(root), "no such folder or zip archive; pass one as --data_dir")


@contextlib.contextmanager
def opened(source: Source, path: str, reason: str) -> Iterator[BinaryIO]:
    """Opens a file of a source.

    Raises:
        InputError: with that reason, where the system says something against opening or reading it.
    """
    try:
        with source.open(path) as file:
            yield file
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror or error}", reason) from error
