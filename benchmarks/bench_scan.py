"""Measures how fast the headers of a folder of DICOM images and RT Structure Sets are read, against pydicom alone.

    python -m benchmarks.bench_scan --files 13000

The files are links to the phantom's 360 images and 3 structure sets: as many as the whole Sunnybrook Cardiac Data has.
Both read the same headers in one process, with a warm cache:

    scan      the layout rtstruct: what each file is, UIDs and numbers of images, ROIs and references of structure sets
    pydicom   pydicom.dcmread(path, stop_before_pixels=True, specific_tags=...) of the same elements, and their values,
              without the validation of values, which the scan also leaves out
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pydicom

from benchmarks.store import prepared
from preprocess import phantom
from preprocess.config import Config
from preprocess.engines.worker import Work
from preprocess.inputs.sources import open_source
from preprocess.layouts import rtstruct

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "StructureSetROISequence", "ROIContourSequence",
)  # fmt: skip


class _Here:
    """An engine that works in this process."""

    def __init__(self, data_dir: pathlib.Path, config: Config) -> None:
        self._source, self._config = open_source(data_dir), config

    def map(self, work: Work[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield work(self._source, self._config, item)


def _linked(root: pathlib.Path, count: int) -> pathlib.Path:
    """A folder of at least ``count`` files."""
    original = prepared(root / "phantom-rtstruct", lambda path: phantom.write_phantom(path, layout="rtstruct"))
    paths = sorted(path for path in original.rglob("*") if path.is_file())

    def write(path: pathlib.Path) -> None:
        for copy in range(-(-count // len(paths))):
            for file in paths:
                (path / f"{copy}" / file.parent.name).mkdir(parents=True, exist_ok=True)
                os.link(file, path / f"{copy}" / file.parent.name / file.name)

    return prepared(root / f"scan-{count}", write)


def _scan(data_dir: pathlib.Path) -> float:
    config = Config(data_dir, data_dir / "records", layout="rtstruct", roi="inner=LV endo,outer=LV epi")
    source, engine = open_source(data_dir), _Here(data_dir, config)
    start = time.perf_counter()
    studies, _ = rtstruct.discover(source, config, engine)
    assert studies
    return time.perf_counter() - start


@pydicom.config.disable_value_validation()
def _bare(data_dir: pathlib.Path) -> float:
    source = open_source(data_dir)
    start = time.perf_counter()
    for path in source.paths:
        if path.rpartition("/")[2].startswith("._"):
            continue
        with source.open(path) as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        for keyword in _TAGS[:7]:
            dataset.get(keyword)
        for item in dataset.get("StructureSetROISequence", []):
            _ = item.ROINumber, item.ROIName
        for item in dataset.get("ROIContourSequence", []):
            for contour in item.ContourSequence:
                _ = contour.ContourGeometricType, contour.ContourImageSequence[0].ReferencedSOPInstanceUID
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=13_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work_dir", type=pathlib.Path, default=pathlib.Path("build/bench"))
    arguments = parser.parse_args()
    data_dir = _linked(arguments.work_dir, arguments.files)
    count = len(open_source(data_dir).paths)
    _bare(data_dir)
    rounds = [(_scan(data_dir), _bare(data_dir)) for _ in range(arguments.rounds)]
    scan, bare = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    print(f"| {count:,} files | seconds | × pydicom |\n|---|---|---|")
    what = "what each file is, UIDs and numbers of images, ROIs and references of structure sets"
    print(f"| scan: {what} | {scan:.2f} | {ratio:.2f} |")
    print(f"| pydicom: `dcmread` of the same elements, and their values, not validated | {bare:.2f} | 1.00 |")


if __name__ == "__main__":
    main()
