"""The output directory: claimed by one job, made aside, and put into place in one step.

All is written to a sibling directory, ``.OUTPUT.partial``, so that the output directory is never there in part, and
renaming never crosses a file system. A lock on that sibling tells a job that runs from one that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from preprocess.errors import InputError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def claimed(output_dir: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Claims an output directory for the length of a ``with`` block.

    Args:
        output_dir: directory to create.
        overwrite: it may be there already, from an earlier run.

    Yields:
        An empty directory beside it; what is left of it at the end is removed, and so is what a killed job left.

    Raises:
        InputError: the output directory must not be replaced, cannot be written, or another job is writing it.
    """
    _check(output_dir, overwrite)
    output = pathlib.Path(os.path.abspath(output_dir))
    partial = output.with_name(f".{output.name}.partial")
    with writing(output_dir):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(partial)
    if lock is None:
        raise InputError(str(output_dir), "another job is writing it now; wait for it, or choose another --output_dir")
    try:
        with writing(output_dir):
            left = sorted(partial.iterdir())
            if left:
                _log.info("%s: removing what a job that was killed left behind", partial)
            for path in left:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def writing(output_dir: pathlib.Path) -> Iterator[None]:
    """Makes what the system says against writing (no space, no right) an error about the output directory.

    Raises:
        InputError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(str(output_dir), f"cannot be written: {error.strerror or error}") from error


def publish(directory: pathlib.Path, output_dir: pathlib.Path, overwrite: bool) -> None:
    """Moves a directory below the one that :func:`claimed` gave into place, once all of it is on the disk.

    Raises:
        InputError: the output directory came into being meanwhile.
    """
    for path in (*directory.iterdir(), directory):
        _sync(path)
    output = pathlib.Path(os.path.abspath(output_dir))
    _check(output_dir, overwrite)
    if output.exists():
        _exchange(directory, output)
    else:
        directory.rename(output)
    _sync(output.parent)


def _check(output_dir: pathlib.Path, overwrite: bool) -> None:
    if not os.path.lexists(output_dir):
        return
    if not overwrite:
        raise InputError(str(output_dir), "exists already; choose another --output_dir, or pass --overwrite")
    try:
        DatasetInfo.read(output_dir)
    except (RecordsError, OSError) as error:
        raise InputError(
            str(output_dir), f"is no records directory ({error}), so it is not replaced; remove it yourself"
        ) from error


def _locked(partial: pathlib.Path) -> int | None:
    """A descriptor of the directory, made where it is not there, with a lock on it; None where another has the lock."""
    while True:
        partial.mkdir(exist_ok=True)
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another job may have published it and let go.
            if os.path.samestat(os.fstat(descriptor), os.stat(partial)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> None:
    """Swaps two directories in one step where the system can (Linux, renameat2), else in two renames."""
    at_working_directory, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(one), os.fsencode(other)
        if renameat2(at_working_directory, paths[0], at_working_directory, paths[1], exchange) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), os.fspath(other))
    former = one.with_name(f"{one.name}-former")
    other.rename(former)
    one.rename(other)
    former.rename(one)
