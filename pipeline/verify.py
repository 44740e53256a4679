"""Checks a whole records directory: every checksum, every count, every digest.

    python -m pipeline.verify RECORDS

prints a line per fault, which names the file. Exit status: 0 without a fault, 1 with faults, 2 on bad arguments.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import numpy as np

from pipeline import __version__, schema
from pipeline.directory import RecordsDirectory
from pipeline.errors import RecordsError
from pipeline.frames import FRAME_BYTES, scan
from pipeline.index import read_index
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo
from pipeline.records import Layout


def faults(directory: str | os.PathLike[str], progress: Callable[[str], object] = lambda line: None) -> Iterator[str]:
    """Yields a line for each fault of a records directory.

    Args:
        directory: records directory.
        progress: called with a line before each shard is checked.
    """
    root = pathlib.Path(directory)
    try:
        opened = RecordsDirectory(root)
        info = DatasetInfo.read(opened)
    except RecordsError as error:
        yield str(error)
        return
    shards = [shard for split in info.splits.values() for shard in split.shards]
    expected = {schema.MANIFEST_FILE, *info.files, *(shard.name for shard in shards)}
    for name in sorted({path.name for path in root.iterdir()} - expected):
        yield f"{root / name}: not named in the manifest; remove it"
    for name, file in info.files.items():
        yield from _file_faults(root / name, file)
    layout = Layout.of(info)
    for shard in shards:
        progress(f"{shard.name}: {shard.count} records")
        yield from _shard_faults(opened, info, shard, layout)


def _file_faults(path: pathlib.Path, expected: FileInfo) -> Iterator[str]:
    try:
        found = FileInfo.of(path)
    except OSError as error:
        yield f"{path}: {error.strerror or error}"
        return
    if found.bytes != expected.bytes:
        yield f"{path}: {found.bytes} bytes, {expected.bytes} expected"
    elif found.sha256 != expected.sha256:
        yield f"{path}: SHA-256 does not match the manifest"


def _shard_faults(directory: RecordsDirectory, info: DatasetInfo, shard: ShardInfo, layout: Layout) -> Iterator[str]:
    """The digest shows whether the shard is intact, the records where it is damaged; both are always checked."""
    path = directory.path / shard.name
    digest_faults = list(_file_faults(path, FileInfo(shard.bytes, shard.sha256)))
    yield from digest_faults
    if not path.is_file():
        return
    frames = []
    try:
        for offset, data in scan(path):
            frames.append((offset, len(data) + FRAME_BYTES))
            yield from _record_faults(path, offset, data, layout)
    except (RecordsError, OSError) as error:
        yield str(error)
        return
    if len(frames) != shard.count:
        yield f"{path}: {len(frames)} records, {shard.count} expected"
    elif not digest_faults:
        try:
            index = read_index(directory, shard, info.files.get(schema.index_name(shard.name)))
        except RecordsError as error:
            yield str(error)
        else:
            if not np.array_equal(index, np.array(frames, np.int64).reshape(-1, 2)):
                yield f"{path.with_name(schema.index_name(path.name))}: its offsets do not match the shard's records"


def _record_faults(path: pathlib.Path, offset: int, data: bytes, layout: Layout) -> Iterator[str]:
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
    parser.add_argument("records", help="records directory, as python -m preprocess writes it")
    parser.add_argument("--version", action="version", version=f"cardiac-lv-records {__version__}")
    directory = parser.parse_args(arguments).records

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(line, file=sys.stderr)

    found = False
    for fault in faults(directory, progress):
        found = True
        print(fault)
    if found:
        return 1
    info = DatasetInfo.load(directory)
    shards = sum(len(split.shards) for split in info.splits.values())
    records = f"{info.cardinality} record{'' if info.cardinality == 1 else 's'}"
    print(f"{directory}: {records} in {shards} shard{'' if shards == 1 else 's'}, every checksum and count matches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
