"""An output directory of this machine: claimed by one job, written beside its place, and moved there in one step.

Everything is written to a sibling directory, ``.OUTPUT.partial``, so that the output directory is never incomplete, and
renaming never crosses a file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

from pipeline import schema
from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from preprocess import interrupts
from preprocess.findings import FatalInputError, counted, some
from preprocess.output import workspace
from preprocess.urls import Place, Url

ELSEWHERE = "choose another --output_dir (with make, another OUT= or REPORT=), or move it away"

EXISTS = "exists already; choose another --output_dir, or pass --overwrite"

NOT_RECORDS = "is not a records directory with an intact manifest, so it is not replaced; choose another --output_dir"

BUSY = "another job is writing it now; wait for it, or choose another --output_dir"


@contextlib.contextmanager
def claimed(output_dir: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Claims an output directory for the length of a ``with`` block.

    Args:
        output_dir: directory to create.
        overwrite: it may exist already, from an earlier run.

    Yields:
        A directory beside it, to write to. It is removed at the end, and so are the leftovers of a killed job.

    Raises:
        FatalInputError: the output directory must not be replaced, cannot be written, or another job is writing it.
    """
    _check(output_dir, overwrite)
    output = _resolve(output_dir)
    partial = output.parent / f".{output.name}.partial"
    interrupts.hold()
    with writing(output_dir):
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = workspace.claim(partial)
    if descriptor is None:
        raise FatalInputError(str(output_dir), BUSY)
    try:
        yield partial
    finally:
        workspace.release(partial, descriptor)


@contextlib.contextmanager
def writing(output_dir: Place) -> Iterator[None]:
    """Turns an OSError (no space, no permission) into an error about the output directory.

    What is wrong with a store is another error. But each shard is a temporary file first.

    Raises:
        FatalInputError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        where = " (temporary files; TMPDIR names another folder for them)" if isinstance(output_dir, Url) else ""
        raise FatalInputError(str(output_dir), f"cannot be written: {error.strerror or error}{where}") from error


def check_only_named(place: Place, info: DatasetInfo, entries: Mapping[str, bool]) -> None:
    """Checks that records may be replaced.

    Args:
        place: where they are.
        info: their manifest.
        entries: the names of all that is there, and whether each is a file.

    Raises:
        FatalInputError: something is there that the manifest does not name.
    """
    shards = (shard.name for split in info.splits.values() for shard in split.shards)
    named = {schema.MANIFEST_FILE, *info.files, *info.copies, *shards}
    others = sorted(name for name, is_file in entries.items() if name not in named or not is_file)
    if others:
        what, which = counted(len(others), "entry", "entries"), some([repr(name) for name in others])
        detail = f"holds {what} that its manifest does not name ({which}), so it is not replaced; {ELSEWHERE}"
        raise FatalInputError(str(place), detail)


def existing(output_dir: pathlib.Path) -> DatasetInfo | None:
    """The manifest of the directory to replace; None if there is no such directory.

    Raises:
        FatalInputError: it holds something else.
    """
    if not os.path.lexists(output_dir):
        return None
    try:
        return DatasetInfo.read(output_dir)
    except (RecordsError, OSError) as error:
        raise FatalInputError(str(output_dir), NOT_RECORDS) from error


def publish(directory: pathlib.Path, output_dir: pathlib.Path, overwrite: bool) -> None:
    """Moves a directory below the one that :func:`claimed` yields into place, once all of it is on the disk.

    Raises:
        FatalInputError: meanwhile the output directory was created or changed, or this file system cannot replace it.
    """
    with interrupts.interruptible():
        for path in (*directory.iterdir(), directory):
            _sync(path)
    output = _resolve(output_dir)
    _check(output_dir, overwrite)
    if output.exists():
        _replace(output, directory, output_dir)
    else:
        directory.rename(output)
    _sync(output.parent)


def _resolve(output_dir: pathlib.Path) -> pathlib.Path:
    """The absolute path of a directory to create: links are followed as the system does, but the last one is not."""
    if output_dir.name in ("", ".."):
        return pathlib.Path(os.path.realpath(output_dir))
    return pathlib.Path(os.path.realpath(output_dir.parent), output_dir.name)


def _check(output_dir: pathlib.Path, overwrite: bool) -> None:
    """Checks that the output does not exist, or may be replaced: a records directory that holds nothing else."""
    if not os.path.lexists(output_dir):
        return
    if not overwrite:
        raise FatalInputError(str(output_dir), EXISTS)
    if output_dir.is_symlink():
        detail = f"is a symbolic link, which is not replaced; pass --output_dir={os.path.realpath(output_dir)}"
        raise FatalInputError(str(output_dir), detail)
    info = existing(output_dir)
    if info is None:
        return
    with writing(output_dir), os.scandir(output_dir) as scanned:
        entries = {entry.name: entry.is_file(follow_symlinks=False) for entry in scanned}
    check_only_named(output_dir, info, entries)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(output: pathlib.Path, directory: pathlib.Path, output_dir: pathlib.Path) -> None:
    """Puts a directory in place of the output, in one step where the system can, else in two renames.

    Raises:
        FatalInputError: neither works, as where the former directory is part of a container's image. The new one is
            kept.
    """
    if _exchange(directory, output):
        return
    # Beside the output, not in the workspace, which the next job empties: a kill between the renames loses nothing.
    # Each rename replaces an empty directory of a new name, and nothing else.
    former = pathlib.Path(tempfile.mkdtemp(prefix=f"{output.name}-former-", dir=output.parent))
    try:
        output.rename(former)
    except OSError as error:
        former.rmdir()
        kept = directory.rename(tempfile.mkdtemp(prefix=f"{output.name}-", dir=output.parent))
        detail = f"cannot be replaced on this file system ({error.strerror}); the new records are complete in {kept}"
        raise FatalInputError(str(output_dir), detail) from error
    try:
        directory.rename(output)
    except OSError:
        former.rename(output)
        raise
    former.rename(directory)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchanges two directories in one step (Linux, renameat2); returns False where the system cannot."""
    at_working_directory, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", lambda *_: -1)
    paths = at_working_directory, os.fsencode(one), at_working_directory, os.fsencode(other)
    return bool(renameat2(*paths, exchange) == 0)
