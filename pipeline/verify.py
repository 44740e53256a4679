"""Checks a whole records directory: every checksum, every count, every digest.

    python -m pipeline.verify RECORDS

prints a line per fault, which names the file. Exit status: 0 without a fault, 1 with faults, 2 on bad arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from pipeline import __version__, schema
from pipeline.errors import RecordsError
from pipeline.frames import FRAME_BYTES, scan_open
from pipeline.index import read_index
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo
from pipeline.records import Layout
from pipeline.remote import Directory, open_directory

_CHUNK_BYTES = 1 << 20


class _Digested:
    """Reads a file from start to end and computes its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """The digest, after the rest of the file is read."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._digest.hexdigest()


def faults(
    directory: str | os.PathLike[str] | Directory, progress: Callable[[str], object] = lambda line: None
) -> Iterator[str]:
    """Yields a line for each fault of a records directory.

    Args:
        directory: records directory, or its URL. What is in a store is not cached.
        progress: called with a line before each shard is checked.
    """
    try:
        opened = open_directory(directory)
        info = DatasetInfo.read(opened)
    except RecordsError as error:
        yield str(error)
        return
    shards = [shard for split in info.splits.values() for shard in split.shards]
    expected = {schema.MANIFEST_FILE, *info.files, *info.copies, *(shard.name for shard in shards)}
    for name in sorted(set(opened.names()) - expected):
        yield f"{opened.location(name)}: not named in the manifest; remove it"
    for name, file in (*info.files.items(), *info.copies.items()):
        yield from _file_faults(opened, name, file)
    layout = Layout.of(info)
    for shard in shards:
        progress(f"{shard.name}: {shard.count} records")
        yield from _shard_faults(opened, info, shard, layout)


def _file_faults(
    directory: Directory,
    name: str,
    expected: FileInfo,
    content_faults: Callable[[_Digested, int], Iterable[str]] = lambda file, size: (),
) -> Iterator[str]:
    """The digest shows whether a file is intact, its content where it is damaged; both are always checked."""
    location = directory.location(name)
    others: list[str] = []
    try:
        with directory.stream(name) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digested = _Digested(file)
            others += content_faults(digested, size)
            sha256 = digested.sha256()
    except OSError as error:
        yield f"{location}: {error.strerror or error}"
        return
    except RecordsError as error:
        yield str(error)
        return
    if size != expected.bytes:
        yield f"{location}: {size} bytes, {expected.bytes} expected"
    elif sha256 != expected.sha256:
        yield f"{location}: SHA-256 does not match the manifest"
    yield from others


def _shard_faults(directory: Directory, info: DatasetInfo, shard: ShardInfo, layout: Layout) -> Iterator[str]:
    location = directory.location(shard.name)

    def content_faults(file: _Digested, size: int) -> Iterator[str]:
        frames = []
        try:
            for offset, data in scan_open(file, size, location):
                frames.append((offset, len(data) + FRAME_BYTES))
                yield from _record_faults(location, offset, data, layout)
        except RecordsError as error:
            yield str(error)
            return
        if len(frames) != shard.count:
            yield f"{location}: {len(frames)} records, {shard.count} expected"
        elif size == shard.bytes:
            try:
                index = read_index(directory, shard, info.files.get(schema.index_name(shard.name)))
            except RecordsError as error:
                yield str(error)
            else:
                if not np.array_equal(index, np.array(frames, np.int64).reshape(-1, 2)):
                    index_location = directory.location(schema.index_name(shard.name))
                    yield f"{index_location}: its offsets do not match the shard's records"

    yield from _file_faults(directory, shard.name, FileInfo(shard.bytes, shard.sha256), content_faults)


def _record_faults(path: str, offset: int, data: bytes, layout: Layout) -> Iterator[str]:
    try:
        head = layout.head(len(data))
    except RecordsError as error:
        yield f"{path}: record at byte {offset}: {error}"
        return
    gap_at = len(head) + layout.image_bytes
    mask_at = gap_at + len(layout.gap)
    if not data.startswith(head) or not data.startswith(layout.gap, gap_at):
        yield f"{path}: record at byte {offset}: the bytes around image and mask are not those of this format"
    elif np.frombuffer(data, np.uint8, layout.mask_bytes, mask_at).max(initial=0) > layout.highest_label:
        yield f"{path}: record at byte {offset}: the mask has a value above {layout.highest_label}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify", description="Check a records directory: every checksum, every count."
    )
    parser.add_argument("records", help="records directory, as python -m preprocess writes it, or its URL")
    parser.add_argument("--version", action="version", version=f"cardiac-lv-records {__version__}")
    directory = parser.parse_args(arguments).records

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(line, file=sys.stderr)

    try:
        opened = open_directory(directory)
    except RecordsError as error:
        print(error)
        return 1
    found = False
    for fault in faults(opened, progress):
        found = True
        print(fault)
    if found:
        return 1
    info = DatasetInfo.load(opened)
    shards = sum(len(split.shards) for split in info.splits.values())
    records = f"{info.cardinality} record{'' if info.cardinality == 1 else 's'}"
    print(f"{opened.path}: {records} in {shards} shard{'' if shards == 1 else 's'}, every checksum and count matches")
    return 0


if __name__ == "__main__":
    # As other commands: `| head` ends it without an error, and names may have bytes that are not UTF-8.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
