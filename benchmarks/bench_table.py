"""Measures the table of records: the size of its file, the time to load it and to select by it, and its memory.

    python -m benchmarks.bench_table

For each count, it writes that many records of 2 × 2 pixels, 40 to a study, in a temporary directory. Each figure is the
median of five processes; the files are in the page cache. ``open`` is ``Records(path)``, ``table`` is its ``.table``,
``where`` leaves out one study of it, ``memory`` is what the peak of the process's memory grows by in these three steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import isolated, store
from pipeline import DatasetInfo, Records, schema, table
from pipeline.directory import RecordsDirectory
from pipeline.index import read_index
from pipeline.manifest import FileInfo, ShardInfo, SplitInfo
from preprocess.output import writer
from preprocess.output.destinations import Directory
from preprocess.output.writer import Record, RecordSpec

_PROCESSES = 5
_OF_STUDY = 40


def write(path: pathlib.Path, count: int) -> None:
    """Writes a records directory: one study of zeros, repeated under other ids.

    Args:
        path: an empty directory.
        count: number of records, a multiple of the study's.
    """
    repeats = count // _OF_STUDY
    info = _write_study(path)
    (shard,) = info.splits["train"].shards
    index = read_index(RecordsDirectory(path), shard, info.files[schema.index_name(shard.name)])
    rows = np.tile(np.load(path / schema.TABLE_FILE), repeats)
    studies = np.char.mod("SCD%07d", np.arange(repeats))
    rows["study_id"] = np.repeat(studies, _OF_STUDY)
    contents = {
        shard.name: (path / shard.name).read_bytes() * repeats,
        schema.index_name(shard.name): "".join(
            f"{offset + repeat * shard.bytes} {size}\n" for repeat in range(repeats) for offset, size in index
        ).encode(),
        schema.TABLE_FILE: table.dump(rows),
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
    file = FileInfo.of(path / shard.name)
    whole = ShardInfo(shard.name, _OF_STUDY * repeats, file.bytes, file.sha256)
    info = dataclasses.replace(
        info,
        splits={"train": SplitInfo(tuple(studies.tolist()), (whole,))},
        files={name: FileInfo.of(path / name) for name in info.files},
    )
    (path / schema.MANIFEST_FILE).write_bytes(info.dump())


def _write_study(path: pathlib.Path) -> DatasetInfo:
    """Writes the records of one study, whose table has values in the columns that all data sets have."""
    shape = (2, 2)
    image, mask = np.zeros(shape, np.int16), np.ones(shape, bool)
    measured = {}
    records = []
    for number in range(_OF_STUDY):
        pair = dataclasses.replace(
            store.synthetic_pair(number, shape),
            study_id="SCD0000000",
            contour_id="SC-HF-I-01",
            slice_index=number // 2,
            phase_index=number % 2,
        )
        measured[pair.key] = {
            "points": 60,
            "polygon_area_px": 1000.5,
            "mask_area_px": 1001,
            "area_difference_percent": 0.05,
            "mean_inside": 200.0,
            "mean_ring": 100.0,
        }
        records.append(Record(pair, image, mask))
    spec = RecordSpec(shape, image.dtype)
    destination = Directory.at(path)
    shards = writer.write_split(destination, "train", iter(records), _OF_STUDY, 1, spec)
    return writer.complete(destination, spec, shards, {"train": ["SCD0000000"]}, {}, {}, measured)


def measure(path: pathlib.Path) -> dict[str, float]:
    """The figures of one process."""
    before = _peak_mb()
    times = [time.perf_counter()]
    records = Records(path)
    times.append(time.perf_counter())
    rows = records.table
    times.append(time.perf_counter())
    view = records.where(rows["study_id"] != rows["study_id"][0])
    times.append(time.perf_counter())
    assert len(view) == len(records) - _OF_STUDY
    figures = dict(zip(("open", "table", "where"), np.diff(times).tolist(), strict=True))
    return {**figures, "memory": _peak_mb() - before, "array": rows.nbytes / 1e6}


def _peak_mb() -> float:
    # Not getrusage: its peak includes that of the parent, from before the program of this process was loaded.
    (line,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 1_000_000], help="records (%(default)s)")
    parser.add_argument("--measure", type=pathlib.Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure is not None:
        print(json.dumps(measure(flags.measure)))
        return
    print(f"| records | `{schema.TABLE_FILE}` | `Records(path)` | `.table` | `where` | memory | of the table |")
    print("|---" * 7 + "|")
    for count in flags.counts:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            write(path, count)
            arguments = (f"--measure={folder}",)
            figures = isolated.medians(
                [isolated.measured("benchmarks.bench_table", *arguments) for _ in range(_PROCESSES)]
            )
            size = (path / schema.TABLE_FILE).stat().st_size / 1e6
            times = " | ".join(f"{figures[step] * 1e3:.1f} ms" for step in ("open", "table", "where"))
            print(
                f"| {count:,} | {size:.1f} MB | {times} | {figures['memory']:.0f} MB | {figures['array']:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
