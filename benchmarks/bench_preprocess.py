"""Measures how fast studies become records, compared with reading alone, and the memory that it takes.

    python -m benchmarks.bench_preprocess --data_dir=final_data --pairs 500 5000

The studies of a data set are repeated, each time with different ids, one different pixel and one different vertex,
until there are that many pairs. Every measurement runs in its own process, without the time of imports and of starting
the workers. "this process" is the time on a processor that the coordinating process takes, as a share of the whole.

    bare     pydicom.dcmread(...).pixel_array of the images in pairs, and the headers of the others: the least to read
    script   the usual script: pydicom, Pillow's polygon and np.savez, for the pairs alone
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import re
import resource
import tempfile
import time
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pydicom

from benchmarks import isolated
from benchmarks.store import prepared
from preprocess.config import Config
from preprocess.inputs import sources
from preprocess.layouts import challenge
from preprocess.model import Study


def _repeated(data_dir: pathlib.Path, root: pathlib.Path, pairs: int) -> pathlib.Path:
    """Makes a data set of at least ``pairs`` pairs from another's studies; returns its folder."""
    source = sources.open_source(data_dir)
    studies = challenge.discover(source)[0]
    repeats = -(-pairs // sum(len(study.contours["i"]) for study in studies))

    def write(path: pathlib.Path) -> None:
        rows: list[tuple[str, str]] = []
        for repeat in range(repeats):
            for study in studies:
                # As long as the original id, so that the lengths in the header stay correct.
                study_id = f"{len(rows):0{len(study.study_id)}d}"
                _copy(source, study, path, study_id, repeat)
                rows.append((study_id, f"contours-{study_id}"))
        with (path / "link.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("patient_id", "original_id"), *rows])

    return prepared(root / f"studies-{pairs}", write)


def _copy(source: sources.Source, study: Study, path: pathlib.Path, study_id: str, repeat: int) -> None:
    folder = path / "dicoms" / study_id
    folder.mkdir(parents=True)
    for number, image in study.images.items():
        with source.open(image) as file:
            content = bytearray(file.read().replace(study.study_id.encode(), study_id.encode()))
        content[-1 - 2 * (repeat % 1000)] ^= 1
        (folder / f"{number}.dcm").write_bytes(content)
    for kind, paths in study.contours.items():
        folder = path / "contourfiles" / f"contours-{study_id}" / f"{kind}-contours"
        folder.mkdir(parents=True)
        for number, contour in paths.items():
            with source.open(contour) as file:
                text = file.read().decode()
            # Move the first x by less than a hundredth of a pixel, so that the contour is not a copy.
            text = re.sub(r"^\s*([\d.]+)", lambda match: f"{float(match[1]) + repeat * 1e-5:.5f}", text, count=1)
            (folder / f"IM-0001-{number:04d}-{kind}contour-manual.txt").write_text(text)


class _Measured(NamedTuple):
    """Seconds of the run, its pairs, and the processor time that this process took of it, without its workers'."""

    seconds: float
    pairs: int
    processor_seconds: float


def _job(data_dir: pathlib.Path, workers: int) -> _Measured:
    from preprocess import phantom
    from preprocess.run import run

    with tempfile.TemporaryDirectory(dir=data_dir.parent) as name:
        # After this, the server that starts the workers has imported what they need.
        phantom.write_phantom(pathlib.Path(name, "phantom"))
        run(Config(data_dir=pathlib.Path(name, "phantom"), output_dir=pathlib.Path(name, "first"), workers=workers))
        begin, processor = time.perf_counter(), time.process_time()
        summary = run(Config(data_dir=data_dir, output_dir=pathlib.Path(name, "records"), workers=workers))
        processor = time.process_time() - processor
        return _Measured(time.perf_counter() - begin, sum(summary.records.values()), processor)


def _bare(data_dir: pathlib.Path) -> _Measured:
    begin, pairs = time.perf_counter(), 0
    processor = time.process_time()
    for study in challenge.discover(sources.open_source(data_dir))[0]:
        for number, path in study.images.items():
            if number in study.contours["i"]:
                _ = pydicom.dcmread(data_dir / path).pixel_array
                pairs += 1
            else:
                pydicom.dcmread(data_dir / path, stop_before_pixels=True)
    return _Measured(time.perf_counter() - begin, pairs, time.process_time() - processor)


def _script(data_dir: pathlib.Path) -> _Measured:
    images, masks = [], []
    begin, processor = time.perf_counter(), time.process_time()
    for study in challenge.discover(sources.open_source(data_dir))[0]:
        for number, path in study.contours["i"].items():
            # Such a script would fail at a contour without its image; this one must finish.
            if number not in study.images:
                continue
            pixels = pydicom.dcmread(data_dir / study.images[number]).pixel_array
            points = [tuple(map(float, line.split())) for line in (data_dir / path).read_text().splitlines()]
            mask = PIL.Image.new("L", pixels.shape[::-1], 0)
            PIL.ImageDraw.Draw(mask).polygon(points, outline=0, fill=1)
            images.append(pixels)
            masks.append(np.array(mask, bool))
    with tempfile.TemporaryFile(dir=data_dir.parent) as file:
        np.savez(file, images=np.stack(images), masks=np.stack(masks))
    return _Measured(time.perf_counter() - begin, len(images), time.process_time() - processor)


_RUNS = {
    "this job, 1 worker": lambda path: _job(path, 1),
    "this job, 2 workers": lambda path: _job(path, 2),
    "bare": _bare,
    "script": _script,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="folder or zip to repeat")
    parser.add_argument("--pairs", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--root", type=pathlib.Path, default=pathlib.Path("build/bench"), help="folder for the repeated data"
    )
    parser.add_argument("--measure", help="run only this measurement, on --data_dir as it is")
    arguments = parser.parse_args()
    if arguments.measure:
        measured = _RUNS[arguments.measure](arguments.data_dir)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**measured._asdict(), "peak_mb": peak}))
        return
    for pairs in arguments.pairs:
        data_dir = _repeated(arguments.data_dir, arguments.root, pairs)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in _RUNS}
        for _ in range(arguments.rounds):
            for name in _RUNS:
                flags = ["--data_dir", str(data_dir), "--measure", name]
                runs[name].append(isolated.measured("benchmarks.bench_preprocess", *flags))
        found = {name: isolated.medians(measured) for name, measured in runs.items()}
        print(f"\n{found['bare']['pairs']:,.0f} pairs, {sum(1 for _ in data_dir.glob('dicoms/*/*')):,} images\n")
        print("| | ms a pair | × bare | this process, % | peak memory, MB |")
        print("|---|---|---|---|---|")
        for name, run in found.items():
            each, bare = (one["seconds"] / one["pairs"] * 1e3 for one in (run, found["bare"]))
            share = run["processor_seconds"] / run["seconds"]
            print(f"| {name} | {each:.2f} | {each / bare:.2f} | {share:.1%} | {run['peak_mb']:,.0f} |")
        one, two = (found[f"this job, {workers}"]["seconds"] for workers in ("1 worker", "2 workers"))
        print(f"\ntwo workers are {one / two:.2f} times as fast as one")


if __name__ == "__main__":
    main()
