"""What masks that are too large do to the ejection fraction: one network, trained on naive and on exact masks.

    python -m examples.compare_masks --data_dir=final_data --output_dir=compared

For each study in turn, the network of examples.train_unet is trained on the other studies twice. The images, the order,
the augmentation and the seed are the same; the masks are once those of the records and once drawn as is often done, by
cv2.fillPoly on rounded vertices. Nothing is chosen by the held-out study: every epoch runs, and the last one counts.

The volumes come from slice summation, as in the records' studies.csv, and are held against the volumes by the exact
areas of the held-out study's own contours. The rows "masks alone" have no network in them: the held-out study's masks,
summed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from examples import train_unet
from pipeline import DatasetInfo, make_dataset, schema
from pipeline.errors import RecordsError
from preprocess import discover, examine, masks, measurements, polygons, sources, values
from preprocess.config import Config
from preprocess.errors import InputError
from preprocess.measurements import Volumes
from preprocess.sources import Source
from preprocess.study import Pair, Polygon
from preprocess.writer import RecordsWriter


def fill_rounded(polygon: Polygon, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The naive mask, bool ``(H, W)``: vertices rounded to whole pixels, and the whole boundary painted."""
    image = np.zeros(shape, np.uint8)
    return np.asarray(cv2.fillPoly(image, [np.rint(polygon).astype(np.int32)], 1), np.bool_)


@dataclasses.dataclass(frozen=True)
class Contoured:
    """The pairs of a study that are in the records, in their order there, and the distance between its slices."""

    pairs: Sequence[Pair]
    slice_spacing_mm: float

    def volumes(self, areas: Iterable[float]) -> Volumes:
        """From an area in square pixels for each pair."""
        return Volumes.of(zip(self.pairs, areas, strict=True), self.slice_spacing_mm)


def read_studies(source: Source, records: pathlib.Path) -> Mapping[str, Contoured]:
    """By study id, the pairs that a job with default settings wrote to the records."""
    with (records / schema.PAIRS_FILE).open(newline="") as file:
        written = {row["contour_path"] for row in csv.DictReader(file) if row["written"] == "1"}
    config = Config(data_dir=pathlib.Path(source.name), output_dir=records)
    studies = {}
    for study in discover.discover(source)[0]:
        content = examine.examine(source, study, config, lambda: None)
        pairs = [pair for pair in content.pairs["i"] if pair.contour_path in written]
        studies[study.study_id] = Contoured(
            pairs, measurements.slice_spacing_mm(content.headers, content.places)
        )
    return studies


def write_naive(source: Source, studies: Mapping[str, Contoured], records: pathlib.Path, naive: pathlib.Path) -> None:
    """Writes the records again, those of split ``train`` with naive masks; nothing else differs.

    Args:
        source: where the images are.
        studies: as :func:`read_studies` has them.
        records: records directory to take after.
        naive: records directory to create.
    """
    info = DatasetInfo.load(records)
    planned = {name: split.count for name, split in info.splits.items()}
    with RecordsWriter(naive, False, info.image_shape[:2], np.dtype(info.image_dtype), planned, None) as writer:
        for name, split in info.splits.items():
            for pair in (pair for study_id in split.studies for pair in studies[study_id].pairs):
                image, mask = examine.read_pair(source, pair, "corner", image_pixels_limit())
                if name == "train":
                    mask = fill_rounded(pair.polygon, mask.shape)
                writer.write(name, pair, values.to_dtype(image, writer.image_dtype, pair.image_path), mask)
        tables = {name: (records / name).read_bytes() for name in info.files if name.endswith(".csv")}
        studies_of = {name: split.studies for name, split in info.splits.items()}
        writer.publish(studies_of, {**info.settings, "train_masks": "cv2.fillPoly, rounded"}, tables)
