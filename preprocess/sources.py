"""The files of a folder or of a zip archive, which read alike.

An archive is read in place and never unpacked, so an entry has no place outside to be written to; one whose name asks
for such a place is refused all the same. An archive within an archive is a file like any other, and never opened.

In a folder links are followed, to wherever they lead: who can make a link there can put the file there, and data sets
are often trees of links into a store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol, Self

from preprocess.errors import InputError

MAX_FILE_BYTES = 1 << 28
"""Bytes that one file may have, in a folder or unpacked from an archive: 256 MiB, an image has 128 MiB at most."""

MAX_DIRECTORY_BYTES = 1 << 26
"""Bytes of a zip archive's directory, which is read whole: some 500,000 entries."""

# No deflated data grows more when it is inflated (zlib's technical details, "Maximum Compression Factor").
_MAX_RATIO = 1032

# Names that could lead out of the folder an archive is unpacked to, on one system or another, or garble a terminal.
_LEADS_OUT = re.compile(r"/.*|[A-Za-z]:.*|(?:.*/)?\.\.(?:/.*)?|.*[\\\x00-\x1f\x7f].*", re.DOTALL)

_Refusal = (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error)
"""What zipfile raises of a damaged archive. RuntimeError: an encrypted entry, or something it does not know."""


class Source(Protocol):
    """Files by path, relative to a folder or an archive, with forward slashes."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def paths(self) -> Sequence[str]:
        """Every file, sorted."""

    @property
    def refused(self) -> Sequence[str]:
        """Names that lead out of the archive, sorted; they are not among ``paths``."""

    def open(self, path: str) -> BinaryIO:
        """Opens a file of ``paths``; raises OSError where it cannot be, or has over ``MAX_FILE_BYTES``."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder. Links to folders are followed, each folder once."""

    root: pathlib.Path
    paths: tuple[str, ...]
    refused: tuple[str, ...] = ()

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
        # Asked before opening: a pipe would wait for a writer, for ever.
        status = os.stat(self.root / path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        _check_size(status.st_size)
        return (self.root / path).open("rb")


@dataclasses.dataclass(frozen=True)
class Archive:
    """The files of a zip archive."""

    root: pathlib.Path
    paths: tuple[str, ...]
    refused: tuple[str, ...]
    file: zipfile.ZipFile

    @property
    def name(self) -> str:
        return os.fspath(self.root)

    @classmethod
    def list(cls, root: pathlib.Path) -> Self:
        """Lists every file in the archive at ``root``.

        Raises:
            InputError: it is not a zip archive, or its directory is too large or cannot be true.
        """
        try:
            file = zipfile.ZipFile(_BoundedFile(io.FileIO(root)))
        except _Refusal as error:
            raise InputError(os.fspath(root), f"cannot be read as a zip archive ({error})") from error
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        declared, there = sum(entry.file_size for entry in entries), root.stat().st_size
        if declared > _MAX_RATIO * there:
            raise InputError(
                os.fspath(root),
                f"its entries claim {declared} bytes, at most {_MAX_RATIO} times the archive's own {there} expected: "
                "they overlap or their sizes are wrong; make the archive anew",
            )
        # Its name as the archive has it: zipfile ends a name at the first NUL.
        refused = {entry for entry in entries if _LEADS_OUT.fullmatch(entry.orig_filename)}
        return cls(
            root,
            tuple(sorted(entry.filename for entry in entries if entry not in refused)),
            tuple(sorted(entry.orig_filename for entry in refused)),
            file,
        )

    def open(self, path: str) -> BinaryIO:
        entry = self.file.getinfo(path)
        # The Unix mode is in the upper half (APPNOTE.TXT 4.4.15, as Info-ZIP uses it).
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise OSError("it is a symbolic link, which is not followed in an archive; put the file in its place")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OSError(f"it is compressed by method {entry.compress_type}, 0 (stored) or 8 (deflated) expected")
        _check_size(entry.file_size)
        # Read whole, so that the entry's CRC-32 has been compared before any of it is used. In pieces: zipfile may
        # otherwise allocate what a false size asks for.
        content = io.BytesIO()
        try:
            with self.file.open(entry) as unpacked:
                while piece := unpacked.read(1 << 20):
                    content.write(piece)
        except _Refusal as error:
            raise OSError(str(error) or type(error).__name__) from error
        if content.tell() != entry.file_size:
            raise OSError(f"it has {content.tell()} bytes, the {entry.file_size} that the archive claims expected")
        content.seek(0)
        return content


class _BoundedFile(io.BufferedReader):
    """A zip archive that refuses to be read in pieces as large as no directory may be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise OSError(f"its directory has {size} bytes, at most {MAX_DIRECTORY_BYTES} expected; divide the archive")
        # What ends an archive is read as all the rest, which is no more than its comment.
        return super().read(MAX_DIRECTORY_BYTES if size is None or size < 0 else size)

    def __del__(self) -> None:
        self.close()


def _check_size(found: int) -> None:
    if found > MAX_FILE_BYTES:
        raise OSError(f"it has {found} bytes, at most {MAX_FILE_BYTES} expected")


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
