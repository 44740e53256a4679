"""Writes the synthetic data set of the reading benchmarks: 256 × 256 images with a disc as mask."""

from __future__ import annotations

import math
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline import schema
from pipeline.manifest import DatasetInfo
from preprocess.geometry.grid import Grid
from preprocess.model import Fingerprint, ImageHeader, Pair
from preprocess.output import writer
from preprocess.output.destinations import Directory
from preprocess.output.writer import Record, RecordSpec

SHAPE = (256, 256)
_VARIETY = 64


def pair_of_arrays(position: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The image, int16 ``(256, 256)``, and mask, bool, at a position; the image's first pixel is the position."""
    rng = np.random.default_rng(position % _VARIETY)
    image = rng.integers(0, 1000, SHAPE).astype(np.int16)
    image[0, 0] = position
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    mask = (rows - 128) ** 2 + (columns - 128) ** 2 < (10 + position % _VARIETY) ** 2
    return image, mask


def prepared(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """Returns ``path``; if it does not exist, writes it and reads it from disk into the page cache."""
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(path)
        drop(path)
        warm(path)
    return path


def records(root: pathlib.Path, count: int) -> pathlib.Path:
    """A records directory of ``count`` pairs, as ``python -m preprocess`` writes it."""
    return prepared(root / "records", lambda path: write_records(path, count))


def write_records(path: pathlib.Path, count: int, num_shards: int | None = None) -> None:
    """Writes ``count`` pairs to an empty directory, in so many shards, or in those that the job would write."""
    spec = RecordSpec(SHAPE, np.dtype(np.int16))
    pairs = (Record(synthetic_pair(position, SHAPE), *pair_of_arrays(position)) for position in range(count))
    destination = Directory.at(path)
    shards = writer.write_split(destination, "train", pairs, count, num_shards, spec)
    info = writer.complete(destination, spec, shards, {"train": ["A"]}, {}, {"audit.csv": b""}, {})
    destination.write(schema.MANIFEST_FILE, info.dump())


def synthetic_pair(number: int, shape: tuple[int, int]) -> Pair:
    """A pair of study A without files: what a writer of records needs of it."""
    return Pair(
        study_id="A",
        contour_id="B",
        kind="i",
        instance_number=number,
        image_path="image",
        contour_path="contour",
        header=ImageHeader(None, None, shape, (0, 1), (1.0, 1.0), None, None, 0.0),
        polygon=np.zeros((3, 2)),
        slice_index=1,
        phase_index=2,
        fingerprint=Fingerprint(b"", b""),
        grid=Grid.of(shape, (1.0, 1.0), None, None, math.prod(shape)),
    )


def shards(directory: pathlib.Path) -> list[str]:
    """The paths of the shards of a records directory."""
    return [os.fspath(directory / shard.name) for shard in DatasetInfo.load(directory).splits["train"].shards]


def raw(root: pathlib.Path, count: int) -> pathlib.Path:
    """The same pairs as two plain files of pixels, ``images`` and ``masks``."""

    def write(path: pathlib.Path) -> None:
        with (path / "images").open("wb") as images, (path / "masks").open("wb") as masks:
            for position in range(count):
                image, mask = pair_of_arrays(position)
                images.write(image.tobytes())
                masks.write(mask.tobytes())

    return prepared(root / "raw", write)


def memory_maps(directory: pathlib.Path, count: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """Memory maps of the files of :func:`raw`: images int16 and masks bool, both ``(count, 256, 256, 1)``."""
    shape = (count, *SHAPE, 1)
    return (
        np.memmap(directory / "images", np.int16, "r", shape=shape),
        np.memmap(directory / "masks", np.bool_, "r", shape=shape),
    )


def drop(path: pathlib.Path) -> None:
    """Removes a directory's files from the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def warm(path: pathlib.Path) -> None:
    """Reads a directory's files into the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as content:
                while content.read(1 << 24):
                    pass
