"""The directory beside the output that a job writes to, before it publishes.

A running job holds a lock on it; a killed one does not. A marker file shows that a job made it: a directory is emptied
only if a job of this user provably made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import stat

from pipeline import schema
from preprocess.findings import FatalInputError

_log = logging.getLogger(__name__)

MARKER = "written-by"
"""The file by which a job recognizes such a directory; it holds the format's name."""

_MARKER_TEXT = f"{schema.FORMAT_NAME}\n".encode("ascii")

_NOT_OURS = (
    "is where the job writes before it publishes, but another program or user made it; move it away, or choose another "
    "--output_dir"
)


def claim(path: pathlib.Path) -> int | None:
    """Creates a directory, or takes over that of a killed job, and locks it.

    Returns:
        A descriptor of the directory, which holds the marker only; None if another job has it.

    Raises:
        FatalInputError: it exists, and it cannot be shown that a job of this user made it.
        OSError: it cannot be written.
    """
    descriptor = _lock(path)
    if descriptor is None:
        return None
    try:
        if _empty(descriptor):
            _log.info("%s: leftovers of a killed job removed", path)
        marker = os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644, dir_fd=descriptor)
        with open(marker, "wb") as file:
            file.write(_MARKER_TEXT)
    except OSError:
        release(path, descriptor)
        raise
    return descriptor


def release(path: pathlib.Path, descriptor: int) -> None:
    """Removes the directory; the marker last, so that the next job recognizes it if this one is killed here."""
    try:
        _empty(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(MARKER, dir_fd=descriptor)
        path.rmdir()
    except OSError as error:
        _log.warning("%s: cannot be removed: %s", path, error.strerror or error)
    finally:
        os.close(descriptor)


def _lock(path: pathlib.Path) -> int | None:
    """A descriptor of the directory, created where it does not exist, with a lock on it; None if another job has it.

    Raises:
        FatalInputError: it exists, and another program made it, or may have.
    """
    while True:
        try:
            path.mkdir()
            created = True
        except FileExistsError:
            created = False
        with contextlib.ExitStack() as opened:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                opened.callback(os.close, descriptor)
                locked = _try_lock(descriptor)
                # Between opening and locking, another job may have published it and unlocked it.
                if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    continue
            except FileNotFoundError:
                continue
            except BlockingIOError:
                return None
            except NotADirectoryError as error:
                raise FatalInputError(str(path), _NOT_OURS) from error
            if not created and not _is_ours(descriptor):
                raise FatalInputError(str(path), _NOT_OURS)
            # On a file system without locks, a running job and a killed one look alike.
            if not created and not locked:
                detail = "belongs to a job that is running or was killed; if none is running, remove it"
                raise FatalInputError(str(path), detail)
            opened.pop_all()
            return descriptor


def _try_lock(descriptor: int) -> bool:
    """Locks a directory; returns False where the file system has no locks.

    Raises:
        BlockingIOError: another job has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_ours(descriptor: int) -> bool:
    """Whether a job of this user made a directory: it has the marker, or is empty (killed before that)."""
    names, user = os.listdir(descriptor), os.geteuid()
    if os.fstat(descriptor).st_uid != user:
        return False
    try:
        marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        with open(marker, "rb") as file:
            text = file.read(len(_MARKER_TEXT) + 1)
            return os.fstat(marker).st_uid == user and (text == _MARKER_TEXT or (not text and names == [MARKER]))
    except OSError:
        return not names


def _empty(descriptor: int) -> bool:
    """Removes everything in a directory except the marker; returns whether there was anything."""
    names = [name for name in os.listdir(descriptor) if name != MARKER]
    for name in names:
        if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=descriptor)
        else:
            os.unlink(name, dir_fd=descriptor)
    return bool(names)
