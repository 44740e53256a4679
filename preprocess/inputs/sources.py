"""The files of a data directory: a folder or a zip archive, behind one interface."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from preprocess.findings import DATA_DIR, FatalInputError, Finding, InputError, Reason, about
from preprocess.inputs import archives
from preprocess.inputs.archives import Archive
from preprocess.inputs.folders import Folder


class Source(Protocol):
    """Files by path. Paths are relative to the folder or archive, with forward slashes."""

    def open(self, path: str) -> BinaryIO:
        """Opens a file; raises OSError if that fails, or it is over ``folders.MAX_FILE_BYTES``."""


class Listing(Source, Protocol):
    """A source that knows its files."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def paths(self) -> Sequence[str]:
        """Every file, sorted."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What cannot be listed or is refused, and is not among ``paths``."""


def reopen(data_dir: str | os.PathLike[str]) -> Source:
    """A folder or a zip archive, for another process, which gets the paths to open.

    Raises:
        FatalInputError: an archive cannot be listed.
    """
    root = pathlib.Path(data_dir)
    return Folder(root, ()) if os.path.isdir(root) else archives.reopen(root)


def open_source(data_dir: str | os.PathLike[str]) -> Listing:
    """Lists a folder or a zip archive.

    Raises:
        FatalInputError: it is neither, or cannot be listed.
    """
    root = pathlib.Path(data_dir)
    try:
        mode = os.stat(root).st_mode
    except FileNotFoundError as error:
        raise FatalInputError(os.fspath(root), f"no such folder or zip archive; pass one as {DATA_DIR}") from error
    except OSError as error:
        raise FatalInputError(os.fspath(root), f"cannot be opened: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return Folder.list(root)
    if stat.S_ISREG(mode):
        return Archive.list(root)
    detail = f"is neither a folder nor a file; pass a folder or a zip archive as {DATA_DIR}"
    raise FatalInputError(os.fspath(root), detail)


@contextlib.contextmanager
def unchanged(data_dir: str | os.PathLike[str]) -> Iterator[Listing]:
    """Lists a folder or a zip archive for a ``with`` block, and checks that an archive does not change meanwhile.

    A folder may change, because each of its files is read on its own.

    Raises:
        FatalInputError: as :func:`open_source`; or the archive was removed, replaced or written to during the block.
            This replaces an exception of the block.
    """
    source = open_source(data_dir)
    with source if isinstance(source, Archive) else contextlib.nullcontext():
        yield source


@contextlib.contextmanager
def opened(source: Source, path: str, reason: Reason) -> Iterator[BinaryIO]:
    """Opens a file of a source.

    Raises:
        InputError: the file cannot be opened or read (``reason``). An InputError of the block gets the path.
    """
    with about(path):
        try:
            with source.open(path) as file:
                yield file
        except OSError as error:
            detail = f"cannot be read: {error.strerror or error}"
            raise InputError(reason, detail, "put a readable file in its place") from error
