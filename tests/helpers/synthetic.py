"""Synthetic headers, pairs and small records."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pipeline import schema
from preprocess.geometry.grid import Grid
from preprocess.model import Fingerprint, ImageHeader, Pair
from preprocess.output import publication, writer
from preprocess.output.destinations import Directory
from preprocess.output.writer import Record, RecordSpec

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

UNREAD = Fingerprint(b"", b"")

GRID = Grid.of((6, 5), (1.5, 1.25), None, None, 1 << 24)

Synthetic = Callable[..., pathlib.Path]
"""The fixture ``synthetic``."""


def synthetic_arrays(
    count: int, shape: tuple[int, int] = (6, 5), dtype: str = "int16"
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks ``(count, H, W)`` of the synthetic records, in storage order."""
    rng = np.random.default_rng(count)
    if dtype == "float32":
        images = rng.normal(0, 100, (count, *shape)).astype(np.float32)
    else:
        limits = np.iinfo(dtype)
        images = rng.integers(limits.min, limits.max, (count, *shape), dtype=dtype, endpoint=True)
    images[:, 0, 0] = np.arange(count)
    return images, rng.random((count, *shape)) < 0.3


def write_synthetic(
    path: pathlib.Path, images: np.ndarray, masks: np.ndarray, *, num_shards: int | None = 3, overwrite: bool = False
) -> None:
    with publication.claimed(path, overwrite) as partial:
        (partial / "records").mkdir()
        pairs = map(synthetic_pair, range(len(images)))
        write_records(partial / "records", map(Record, pairs, images, masks), len(images), num_shards)
        publication.publish(partial / "records", path, overwrite)


def write_records(
    directory: pathlib.Path, records: Iterable[Record], count: int, num_shards: int | None = None, split: str = "train"
) -> None:
    """Writes records of one study, ``A``, as one split."""
    first, *others = records
    classes = schema.LABEL_CLASSES if first.mask.dtype == np.uint8 else ()
    spec = RecordSpec(first.image.shape, first.image.dtype, classes)
    destination = Directory.at(directory)
    shards = writer.write_split(destination, split, iter([first, *others]), count, num_shards, spec)
    info = writer.complete(destination, spec, shards, {split: ["A"]}, {}, {"audit.csv": b""}, {})
    destination.write(schema.MANIFEST_FILE, info.dump())


def synthetic_pair(number: int, **header: Any) -> Pair:
    fields = {"instance_number": number, **header}
    return Pair(
        study_id="A",
        contour_id="B",
        kind="i",
        instance_number=number,
        image_path="image",
        contour_path="contour",
        header=header_of(**fields),
        polygon=np.zeros((3, 2)),
        slice_index=1,
        phase_index=2,
        fingerprint=UNREAD,
        grid=GRID,
    )


def header_of(**fields: Any) -> ImageHeader:
    plain = ImageHeader(None, None, (6, 5), (0, 1), (1.5, 1.25), AXIAL, (0, 0, 3.5), 0.0)
    return dataclasses.replace(plain, **fields)


def write_small(path: pathlib.Path, count: int = 4, overwrite: bool = False) -> None:
    write_synthetic(path, *synthetic_arrays(count), overwrite=overwrite)
