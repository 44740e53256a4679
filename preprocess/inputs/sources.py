"""The files of a data set: folders and zip archives, behind one interface."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol

from preprocess import urls
from preprocess.findings import DATA_DIR, FatalInputError, Finding, InputError, Reason, about, counted, some
from preprocess.inputs import archives, stores
from preprocess.inputs.archives import Archive
from preprocess.inputs.folders import Folder
from preprocess.inputs.stores import StoreFolder
from preprocess.tables import read_rows
from preprocess.urls import Place, Url


class Source(Protocol):
    """Files by path. Paths are relative to the folder or archive, with forward slashes."""

    def open(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens a file for a ``with`` block.

        Raises:
            OSError: that fails, or the file is over ``folders.MAX_FILE_BYTES``.
        """


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


DataDir = Place | tuple[Place, ...]
"""One folder or zip archive, or several that hold one data set."""


def data_dir(places: Sequence[str | os.PathLike[str]]) -> DataDir:
    """One data set from the paths and URLs that a user passes; raises as :func:`urls.place`."""
    first, *others = map(urls.place, places)
    return (first, *others) if others else first


@dataclasses.dataclass(frozen=True)
class Combined:
    """Several sources as one.

    Attributes:
        name: name in messages.
        parts: each source by its name, with which its paths begin; those of the source without a name do not.
    """

    name: str
    parts: Mapping[str, Source]

    def open(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        first, _, rest = path.partition("/")
        return self.parts[first].open(rest) if first in self.parts else self.parts[""].open(path)


@dataclasses.dataclass(frozen=True)
class CombinedListing(Combined):
    """Several listings as one."""

    parts: Mapping[str, Listing]

    @property
    def paths(self) -> Sequence[str]:
        return sorted(_joined(name, path) for name, part in self.parts.items() for path in part.paths)

    @property
    def findings(self) -> Sequence[Finding]:
        return [
            dataclasses.replace(finding, path=_joined(name, finding.path))
            for name, part in self.parts.items()
            for finding in part.findings
        ]


def _joined(name: str, path: str) -> str:
    return f"{name}/{path}" if name else path


def reopen(data_dir: DataDir) -> Source:
    """The data set for another process, which gets the paths to open.

    Raises:
        FatalInputError: an archive cannot be listed, or a store does not answer.
    """
    if isinstance(data_dir, tuple):
        return Combined(name_of(data_dir), {name: reopen(place) for name, place in _named(data_dir).items()})
    if not (stores.is_folder(data_dir) if isinstance(data_dir, Url) else data_dir.is_dir()):
        return archives.reopen(data_dir)
    loose = StoreFolder(data_dir, ()) if isinstance(data_dir, Url) else Folder(data_dir, ())
    zipped = _zip_archives(_entries(data_dir))
    if not zipped:
        return loose
    return Combined(loose.name, {"": loose, **{name: archives.reopen(data_dir / name) for name in zipped}})


def open_source(data_dir: DataDir) -> Listing:
    """Lists a data set: a folder, a zip archive, a folder that holds zip archives and no folder, or several of these.

    With several, a path begins with the name of its folder or archive.

    Raises:
        FatalInputError: one is neither, or cannot be listed, or two have the same name.
    """
    if isinstance(data_dir, tuple):
        parts = {name: open_source(place) for name, place in _named(data_dir).items()}
        return CombinedListing(name_of(data_dir), parts)
    if isinstance(data_dir, Url):
        if not stores.is_folder(data_dir):
            return Archive.list(data_dir)
        # Its listing holds everything below it, which need not be listed again.
        stored = StoreFolder.list(data_dir)
        return _with_archives(stored, _zip_archives((path.partition("/")[0], "/" in path) for path in stored.paths))
    try:
        mode = os.stat(data_dir).st_mode
    except FileNotFoundError as error:
        raise FatalInputError(os.fspath(data_dir), f"no such folder or zip archive; pass one as {DATA_DIR}") from error
    except OSError as error:
        raise FatalInputError(os.fspath(data_dir), f"cannot be opened: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return _with_archives(Folder.list(data_dir), _zip_archives(_entries(data_dir)))
    if stat.S_ISREG(mode):
        return Archive.list(data_dir)
    detail = f"is neither a folder nor a file; pass a folder or a zip archive as {DATA_DIR}"
    raise FatalInputError(os.fspath(data_dir), detail)


def _with_archives(folder: Folder | StoreFolder, zipped: Sequence[str]) -> Listing:
    """A folder in which the zip archives of these names take the place of their files."""
    if not zipped:
        return folder
    loose = dataclasses.replace(folder, paths=tuple(path for path in folder.paths if path not in zipped))
    return CombinedListing(folder.name, {"": loose, **{name: Archive.list(folder.root / name) for name in zipped}})


def unread_archives(source: Listing) -> str:
    """For a message, the archives among the files of a folder, which are not read; empty if there are none."""
    names = [path for path in source.paths if path.lower().endswith(".zip")]
    if not names:
        return ""
    what = counted(len(names), "archive")
    rule = "archives are read only from a folder that holds no other folder"
    return f"; {what} there not read ({some(names)}): {rule}, so move the archives to one of their own, or unpack them"


def name_of(data_dir: DataDir) -> str:
    """The name of a data set in messages."""
    places = data_dir if isinstance(data_dir, tuple) else (data_dir,)
    return ", ".join(map(str, places))


def _named(data_dirs: tuple[Place, ...]) -> dict[str, Place]:
    """Several folders and archives by name; raises FatalInputError if two have the same one."""
    named: dict[str, Place] = {}
    for place in data_dirs:
        name = place.absolute().name
        if name in named:
            detail = f"has the same name as {named[name]}, so their files cannot be told apart; rename one"
            raise FatalInputError(str(place), detail)
        named[name] = place
    return named


def _zip_archives(entries: Iterable[tuple[str, bool]]) -> list[str]:
    """The zip archives among the entries of a folder that holds no folder, as a download of several archives does.

    Args:
        entries: the name of each, and whether it is a folder.
    """
    names = []
    for name, is_folder in entries:
        if is_folder:
            return []
        if name.lower().endswith(".zip"):
            names.append(name)
    return sorted(names)


def _entries(folder: Place) -> list[tuple[str, bool]]:
    """The name of each entry of a folder, and whether it is a folder."""
    if isinstance(folder, Url):
        return stores.entries(folder)
    try:
        with os.scandir(folder) as scanned:
            return [(entry.name, entry.is_dir()) for entry in scanned]
    except OSError:
        # Listing the folder reports it.
        return []


@contextlib.contextmanager
def unchanged(data_dir: DataDir) -> Iterator[Listing]:
    """Lists a data set for a ``with`` block, and checks that no archive changes meanwhile.

    A folder may change, because each of its files is read on its own.

    Raises:
        FatalInputError: as :func:`open_source`; or an archive was removed, replaced or written to during the block.
            This replaces an exception of the block.
    """
    source = open_source(data_dir)
    with contextlib.ExitStack() as opened_archives:
        for archive in _archives(source):
            opened_archives.enter_context(archive)
        yield source


def _archives(source: Listing) -> Iterator[Archive]:
    if isinstance(source, Archive):
        yield source
    elif isinstance(source, CombinedListing):
        for part in source.parts.values():
            yield from _archives(part)


def read_table(
    source: Source, path: str, columns: Sequence[str], limit: int, expected: str
) -> list[tuple[int, tuple[str, ...]]]:
    """The line number and the cells of each row of a CSV file, without other columns.

    Args:
        source: the data set.
        path: of the file.
        columns: names of the columns.
        limit: bytes that the file may have.
        expected: what it should hold, for the message.

    Raises:
        FatalInputError: the file cannot be read, is larger, or lacks a column.
    """
    try:
        with source.open(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise FatalInputError(path, f"cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise FatalInputError(path, f"has over {limit} bytes, {expected} expected")
    return read_rows(content, path, columns)


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
