"""A bounded cache of files, which the processes of a machine share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from pipeline.directory import FileInfo
from pipeline.errors import RecordsError

_FOLDER = "cardiac-lv-records"
_NAME = re.compile(r"[0-9a-f]{64}(\.part)?")
_SECONDS_BETWEEN_TRIES = 0.05

# A link in place of a file must not lead to another file, which would be emptied.
_CREATE = os.O_CREAT | os.O_NOFOLLOW


class Cache:
    """Files by their SHA-256, at most ``limit`` bytes of them.

    An entry is named by its digest, so records of several URLs share it, and no name says where it comes from. It is
    written as ``DIGEST.part`` and renamed when it is complete. A process locks the part while it writes, so of several
    processes that need a file one fetches it, and what a killed process left is found and removed. A part has its full
    size from the start, so it counts towards the limit before it is written.

    The entries that were used least recently are removed to make room. On Linux, whoever has one open or mapped reads
    on; its space on the disk is free when the last of them has closed it.

    Args:
        folder: where the files are; None for ``cardiac-lv-records`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
        limit: bytes that the files take at most; None for half of what is free on that file system or already in the
            cache.

    Raises:
        RecordsError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, limit: int | None) -> None:
        parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.folder = pathlib.Path(parent, _FOLDER) if folder is None else pathlib.Path(os.path.abspath(folder))
        with self._errors():
            # Images of patients: nobody else may read a folder that this makes.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.limit = self._default_limit() if limit is None else limit

    def open(self, file: FileInfo, fetch: Callable[[BinaryIO], None]) -> BinaryIO:
        """Opens a file of the cache for reading, and counts that as a use of it.

        Args:
            file: its size, at most the limit, and its digest.
            fetch: writes the content to a file and checks it; called if the cache does not hold it, after there is
                room.

        Raises:
            RecordsError: the folder cannot be used.
        """
        part = self.folder / f"{file.sha256}.part"
        with self._errors():
            while True:
                held = self._opened(file)
                if held is not None:
                    return held
                with self._locked(part) as content:
                    # Another process may have completed or removed it meanwhile.
                    if not _is_at(content, part):
                        continue
                    try:
                        self._make_room(content, file.bytes)
                        fetch(content)
                        content.flush()
                        # Otherwise a power failure could leave an entry that lacks its content.
                        os.fsync(content.fileno())
                        os.utime(content.fileno(), ns=_now())
                        # Locked: whoever counts the files must not miss this one.
                        with self._locked(self.folder / "lock"):
                            part.rename(self.entry(file))
                    except BaseException:
                        part.unlink(missing_ok=True)
                        raise
                    # Not by its name: another process may remove the entry at once.
                    content.seek(0)
                    return open(os.dup(content.fileno()), "rb")

    def _opened(self, file: FileInfo) -> BinaryIO | None:
        """An entry that the cache holds; None if it holds none of that size."""
        entry = self.entry(file)
        try:
            if entry.stat().st_size == file.bytes:
                self.use(file)
                return entry.open("rb")
            entry.unlink()
        except FileNotFoundError:
            pass
        return None

    def use(self, file: FileInfo) -> None:
        """Counts a use of a file; nothing happens if it was removed, or is another user's."""
        with contextlib.suppress(OSError):
            os.utime(self.entry(file), ns=_now())

    def holds(self, file: FileInfo) -> bool:
        """Whether the file is there."""
        return os.path.exists(self.entry(file))

    def entry(self, file: FileInfo) -> pathlib.Path:
        """Where a file is if the cache holds it."""
        return self.folder / file.sha256

    def _make_room(self, part: BinaryIO, size: int) -> None:
        """Removes the entries that were used least recently, and gives ``part`` its size.

        While other processes' parts take too much room, it waits: each of them becomes an entry, which can be removed.
        """
        # A killed process may have left one of full size.
        part.truncate(0)
        while True:
            with self._locked(self.folder / "lock"):
                # Opening a pipe would wait for a writer, and a link may lead to another's file.
                files = [
                    each
                    for each in os.scandir(self.folder)
                    if _NAME.fullmatch(each.name) and each.is_file(follow_symlinks=False)
                ]
                states = []
                for each in files:
                    with contextlib.suppress(FileNotFoundError):
                        if not (each.name.endswith(".part") and self._removed_if_abandoned(each.path)):
                            states.append((each.stat(), each))
                total = size + sum(state.st_size for state, _ in states)
                for state, each in sorted(states, key=lambda one: one[0].st_mtime_ns):
                    if total > self.limit and not each.name.endswith(".part"):
                        os.unlink(each.path)
                        total -= state.st_size
                if total <= self.limit:
                    part.truncate(size)
                    return
            time.sleep(_SECONDS_BETWEEN_TRIES)

    def _removed_if_abandoned(self, part: str) -> bool:
        """Removes a part that no process writes."""
        with open(part, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if _is_at(file, part):
                os.unlink(part)
            return True

    @contextlib.contextmanager
    def _locked(self, path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
        """Opens a file, which it makes if it is missing, and locks it."""
        with open(path, "r+b", opener=lambda path, flags: os.open(path, flags | _CREATE, 0o666)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                # Closing alone does not unlock it if another thread has forked in the meantime.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _default_limit(self) -> int:
        held = 0
        for each in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                held += each.stat().st_size
        return (shutil.disk_usage(self.folder).free + held) // 2

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RecordsError(
                f"{self.folder}: cannot be used as a cache ({error.strerror or error}); pass a cache_dir on a local "
                "disk with enough space"
            ) from error


def _now() -> tuple[int, int]:
    """The time of a use; the system's own time for a file has steps of several milliseconds."""
    return time.time_ns(), time.time_ns()


def _is_at(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
