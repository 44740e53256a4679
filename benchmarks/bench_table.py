"""Measures the table of records: the size of its file, the time to load it and to select by it, and its memory.

    python -m benchmarks.bench_table

For each count, it writes that many records of 2 × 2 pixels, 40 to a study, in a temporary directory. Each figure is the
median of five processes; the files are in the page cache. ``open`` is ``Records(path)``, ``table`` is its ``.table``,
``where`` leaves out one study of it, ``memory`` is what the peak of the process's memory grows by in these three steps.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import isolated
from pipeline import Records, schema

_PROCESSES = 5
_OF_STUDY = 40


def write(path: pathlib.Path, count: int) -> None:
    """Writes a records directory whose table has values in every column that all data sets have."""
    # Imported here, so that a process that only reads does not load TensorFlow.
    from preprocess.geometry.grid import Grid
    from preprocess.model import Fingerprint, ImageHeader, Pair
    from preprocess.output.writer import RecordsWriter

    shape = (2, 2)
    grid = Grid.of(shape, (1.25, 1.25), None, None, math.prod(shape))
    image, mask = np.zeros(shape, np.int16), np.ones(shape, bool)
    studies = [f"SCD{number:07d}" for number in range(-(-count // _OF_STUDY))]
    with RecordsWriter(path, shape, image.dtype, {"train": count}, None) as writer:
        for position in range(count):
            study, number = divmod(position, _OF_STUDY)
            header = ImageHeader(None, None, shape, (0, 1), (1.25, 1.25), None, None, 0.0)
            pair = Pair(
                study_id=studies[study],
                contour_id=f"SC-HF-I-{study:05d}",
                kind="i",
                instance_number=number,
                image_path="image",
                contour_path="contour",
                header=header,
                polygon=np.zeros((3, 2)),
                slice_index=number // 2,
                phase_index=number % 2,
                fingerprint=Fingerprint(b"", b""),
                grid=grid,
            )
            measured = {
                "points": 60,
                "polygon_area_px": 1000.5,
                "mask_area_px": 1001,
                "area_difference_percent": 0.05,
                "mean_inside": 200.0,
                "mean_ring": 100.0,
            }
            writer.write("train", pair, image, mask, measured)
        writer.complete({"train": studies}, {}, {})


def measure(path: pathlib.Path) -> dict[str, float]:
    """The figures of one process."""
    before = _peak_mb()
    times = [time.perf_counter()]
    records = Records(path)
    times.append(time.perf_counter())
    table = records.table
    times.append(time.perf_counter())
    view = records.where(table["study_id"] != table["study_id"][0])
    times.append(time.perf_counter())
    assert len(view) == len(records) - _OF_STUDY
    figures = dict(zip(("open", "table", "where"), np.diff(times).tolist(), strict=True))
    return {**figures, "memory": _peak_mb() - before, "array": table.nbytes / 1e6}


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
    for count in flags.counts:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            write(path, count)
            arguments = (f"--measure={folder}",)
            figures = isolated.medians(
                [isolated.measured("benchmarks.bench_table", *arguments) for _ in range(_PROCESSES)]
            )
            print(
                f"{count:,} records: {schema.TABLE_FILE} {(path / schema.TABLE_FILE).stat().st_size / 1e6:.1f} MB; "
                f"open {figures['open'] * 1e3:.0f} ms, table {figures['table'] * 1e3:.0f} ms, "
                f"where {figures['where'] * 1e3:.1f} ms; memory {figures['memory']:.0f} MB, "
                f"of which the table {figures['array']:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
