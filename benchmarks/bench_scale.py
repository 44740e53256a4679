"""Measures the coordinating process of a job with very many pairs, which exist only while they are read.

    python -m benchmarks.bench_scale --pairs 1000 10000

A generator stands for the data set: studies of 20 images of 64 × 64 pixels, each with an inner contour, are made when
their files are opened. The whole job runs on it, up to the manifest, and writes to a place that keeps nothing.
Workers are forked, so that they have the generator; reading and drawing is the job's own code. Each measurement runs in
its own process.

    plan       reading every header and contour, and deciding what is written where
    shards     decoding, drawing, measuring and serializing every pair, and the tables
    pickled    the plan, as workers get it
    peak       memory of the coordinating process, in brackets before the data set is listed; and the difference a pair
    index      of the shards; text
    table      records.npy
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pydicom

from benchmarks import isolated
from preprocess import run
from preprocess.config import Config
from preprocess.findings import Audit, Finding
from preprocess.plan import make_plan

_SIZE, _SLICES, _PHASES = 64, 10, 2
_IMAGES = _SLICES * _PHASES
_STUDY, _NUMBER, _TRIGGER, _LOCATION = b"S9999999", b"9999", b"999.9", b"9999.999"
"""What stands in the header of the pattern for a study's id, and for a number, a time and a place of an image."""


class Generated:
    """A data set in the layout ``challenge`` whose files are made when they are opened.

    Args:
        studies: how many studies it has.
    """

    name = "generated"
    findings: Sequence[Finding] = ()

    def __init__(self, studies: int) -> None:
        self._studies = studies
        self._pattern = _pattern()
        contour = "contourfiles/C{:07d}/i-contours/IM-0001-{:04d}-icontour-manual.txt"
        each = [(study, number) for study in range(studies) for number in range(1, _IMAGES + 1)]
        images = ("dicoms/S{:07d}/{}.dcm".format(*one) for one in each)
        self.paths: Sequence[str] = sorted(["link.csv", *images, *(contour.format(*one) for one in each)])

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self._content(path))

    def _content(self, path: str) -> bytes:
        if path == "link.csv":
            rows = (f"S{study:07d},C{study:07d}\n" for study in range(self._studies))
            return "".join(["patient_id,original_id\n", *rows]).encode()
        folder, name, *rest = path.split("/")
        study = int(name[1:])
        if folder == "dicoms":
            return self._image(study, int(rest[0].removesuffix(".dcm")))
        return _contour(study, int(rest[1].split("-")[2]))

    def _image(self, study: int, number: int) -> bytes:
        place, phase = divmod(number - 1, _PHASES)
        content = self._pattern
        for old, new in (
            (_STUDY, f"S{study:07d}"),
            (_NUMBER, f"{number:04d}"),
            (_TRIGGER, f"{100 + 300 * phase:05.1f}"),
            (_LOCATION, f"{8 * place:08.3f}"),
        ):
            content = content.replace(old, new.encode(), 1)
        # So that no two images are copies of each other.
        return content[:-8] + (study * _IMAGES + number).to_bytes(8, "little")


def _radius(number: int) -> float:
    place, phase = divmod(number - 1, _PHASES)
    return 16 - 0.6 * place - 3.0 * phase


def _contour(study: int, number: int) -> bytes:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    # Each study's contours lie a little elsewhere, so that none is a copy of another.
    x = 32 + study % 1000 * 1e-4 + _radius(number) * np.cos(angles)
    y = 32 + study // 1000 * 1e-4 + _radius(number) * np.sin(angles)
    return "".join(f"{a:.4f} {b:.4f}\n" for a, b in zip(x, y, strict=True)).encode()


def _pattern() -> bytes:
    """A DICOM file with the texts that :meth:`Generated._image` replaces: bright blood, dark muscle."""
    rows, columns = np.mgrid[:_SIZE, :_SIZE] + 0.5
    distance = np.hypot(rows - 32, columns - 32)
    pixels = np.where(distance < 14, 400, np.where(distance < 22, 100, 200)).astype(np.int16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.PatientID = _STUDY.decode()
    dataset.InstanceNumber = _NUMBER.decode()
    dataset.TriggerTime = _TRIGGER.decode()
    dataset.ImagePositionPatient = ["0", "0", _LOCATION.decode()]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing = ["1.5", "1.5"]
    dataset.Rows = dataset.Columns = _SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


class Discarding:
    """A destination that counts what is put there, and keeps only small files of this process."""

    prefix = ""
    scratch = None

    def put(self, file: pathlib.Path, name: str) -> None:
        file.unlink()

    def write(self, name: str, content: bytes) -> None:
        pass

    def read(self, name: str) -> bytes:
        raise FileNotFoundError(name)

    def settle(self, name: str, final: str) -> None:
        pass

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Discarding]:
        yield self


class Forked:
    """An engine whose workers are copies of this process, so that they have the data set without a file."""

    def __init__(self, source: Generated, config: Config) -> None:
        global _source_and_config
        _source_and_config = source, config

    def map(self, work: Any, items: Sequence[Any]) -> Iterator[Any]:
        with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
            yield from pool.imap(functools.partial(_call, work), items)


_source_and_config: Any = None


def _call(work: Any, item: Any) -> Any:
    return work(*_source_and_config, item)


def _measure(pairs: int) -> dict[str, float]:
    """Runs the whole job on that many pairs."""
    before = _peak_mb()
    source = Generated(-(-pairs // _IMAGES))
    config = Config(pathlib.Path(source.name), pathlib.Path("nowhere"), layout="challenge")
    audit, engine = Audit(), Forked(source, config)
    moments = [time.perf_counter()]
    plan = make_plan(source, config, {}, engine, audit)
    moments.append(time.perf_counter())
    info = run.write(plan, config, engine, Discarding(), audit)
    moments.append(time.perf_counter())
    peak = _peak_mb()
    count = info.cardinality
    return {
        "pairs": count,
        "plan_ms": (moments[1] - moments[0]) / count * 1e3,
        "shards_ms": (moments[2] - moments[1]) / count * 1e3,
        "pickled_kb": sum(len(pickle.dumps(one)) for one in plan.selections) / count / 1e3,
        "before_mb": before,
        "peak_mb": peak,
        "index": sum(file.bytes for name, file in info.files.items() if name.endswith(".idx")) / count,
        "table": info.files["records.npy"].bytes / count,
        "manifest_kb": len(info.dump()) / 1e3,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000], help="pairs (%(default)s)")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure)))
        return
    head = (
        "pairs", "plan, ms a pair", "shards, ms a pair", "pickled, KB a pair", "peak, MB", "KB a pair",
        "index, bytes a pair", "table, bytes a pair", "manifest, KB",
    )  # fmt: skip
    print(f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|")
    for pairs in arguments.pairs:
        found = isolated.measured("benchmarks.bench_scale", "--measure", str(pairs))
        each = (found["peak_mb"] - found["before_mb"]) * 1024 / found["pairs"]
        print(
            f"| {found['pairs']:,.0f} | {found['plan_ms']:.2f} | {found['shards_ms']:.2f} | {found['pickled_kb']:.2f} "
            f"| {found['peak_mb']:,.0f} ({found['before_mb']:.0f}) | {each:.1f} | {found['index']:.1f} "
            f"| {found['table']:.0f} | {found['manifest_kb']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
