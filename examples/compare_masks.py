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

from examples.train_unet import StudyDice, add_training_flags, predict, studies_with_pairs, table, train
from pipeline import DatasetInfo, make_dataset, schema
from pipeline.errors import RecordsError
from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.geometry import Polygon, masks, polygons
from preprocess.inputs import challenge, sources
from preprocess.inputs.sources import Source
from preprocess.model import Pair
from preprocess.output import dtypes, publication
from preprocess.output.writer import RecordsWriter
from preprocess.quality.volumes import Volumes
from preprocess.run import run
from preprocess.stages import load, render


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

    def contour_volumes(self) -> Volumes:
        """From the exact areas of the contours: what the others are held against."""
        return self.volumes(polygons.area(pair.polygon) for pair in self.pairs)


def read_studies(source: Source, config: Config) -> dict[str, Contoured]:
    """By study id, the pairs that a job with these settings has written."""
    with (config.output_dir / schema.PAIRS_FILE).open(newline="") as file:
        written = {row["contour_path"] for row in csv.DictReader(file) if row["written"] == "1"}
    studies = {}
    for study in challenge.discover(source)[0]:
        content = load.examine(source, config, study)
        pairs = [pair for pair in content.pairs["i"] if pair.contour_path in written]
        studies[study.study_id] = Contoured(pairs, content.summary.slice_spacing_mm)
    return studies


def write_naive(source: Source, config: Config, studies: Mapping[str, Contoured], naive: pathlib.Path) -> None:
    """Writes a job's records again, those of split ``train`` with naive masks; nothing else differs.

    Args:
        source: what the job read.
        config: its settings; ``output_dir`` is the records directory to take after.
        studies: what :func:`read_studies` found there.
        naive: records directory to create.
    """
    info = DatasetInfo.load(config.output_dir)
    planned = {name: split.count for name, split in info.splits.items()}
    dtype = np.dtype(info.image_dtype)
    tables = {name: (config.output_dir / name).read_bytes() for name in info.files if name.endswith(".csv")}
    settings = {**info.settings, "train_masks": "cv2.fillPoly on rounded vertices"}
    with publication.claimed(naive, False) as partial:
        directory = partial / "records"
        directory.mkdir()
        with RecordsWriter(directory, info.image_shape[:2], dtype, planned, config.num_shards) as records:
            for name, split in info.splits.items():
                for pair in (pair for study_id in split.studies for pair in studies[study_id].pairs):
                    image, mask = render.read_pair(source, config, pair)
                    if name == "train":
                        mask = fill_rounded(pair.polygon, mask.shape)
                    records.write(name, pair, dtypes.to_dtype(image, dtype), mask)
            records.complete({name: split.studies for name, split in info.splits.items()}, settings, tables)
        publication.publish(directory, naive, False)


def compare(
    data_dir: pathlib.Path, study_id: str, output_dir: pathlib.Path, epochs: int, batch_size: int, seed: int
) -> tuple[dict[str, StudyDice], dict[str, Volumes]]:
    """Trains on naive and on exact masks with one study held out.

    Args:
        data_dir: folder or zip of studies.
        study_id: the study to hold out.
        output_dir: folder for what the two trainings leave.
        epochs: all of which run.
        batch_size: images to a step.
        seed: of weights, order and augmentation.

    Returns:
        How the networks trained on ``naive`` and on ``exact`` masks do against exact masks; and the held-out study's
        volumes by what the areas come from, first the contours themselves.
    """
    with tempfile.TemporaryDirectory() as name:
        directories = {"naive": pathlib.Path(name, "naive"), "exact": pathlib.Path(name, "exact")}
        config = Config(data_dir=data_dir, output_dir=directories["exact"], split=f"val={study_id}")
        run(config)
        source = sources.open_source(data_dir)
        studies = read_studies(source, config)
        write_naive(source, config, studies, directories["naive"])
        held_out = studies[study_id]
        drawn = {
            "naive": [fill_rounded(pair.polygon, pair.header.shape) for pair in held_out.pairs],
            "exact": [masks.rasterize(pair.polygon, pair.header.shape) for pair in held_out.pairs],
        }
        volumes = {"the contours": held_out.contour_volumes()}
        for kind, found in drawn.items():
            volumes[f"{kind} masks alone"] = held_out.volumes(mask.sum() for mask in found)
        batches = make_dataset(config.output_dir, "val", batch_size, shuffle=False, epochs=1, standardize=True)
        images = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
        results = {}
        for kind, records in directories.items():
            trained = output_dir / study_id / kind
            (results[kind],) = train(records, trained, epochs=epochs, patience=epochs, batch_size=batch_size, seed=seed)
            areas = predict(trained / "last.keras", images).sum(axis=(1, 2, 3))
            volumes[f"network trained on {kind} masks"] = held_out.volumes(areas)
    return results, volumes


def volume_rows(study_id: str, volumes: Mapping[str, Volumes]) -> list[str]:
    """Rows of the table of volumes, in Markdown: differences are from the first, the contours' own."""
    exact, *_ = volumes.values()
    return [
        f"| {study_id} | {kind} | {found.edv_ml:.1f} ({found.edv_ml / exact.edv_ml - 1:+.1%}) "
        f"| {found.esv_ml:.1f} ({found.esv_ml / exact.esv_ml - 1:+.1%}) "
        f"| {found.ejection_fraction_percent:.1f} "
        f"({found.ejection_fraction_percent - exact.ejection_fraction_percent:+.1f}) |"
        for kind, found in volumes.items()
    ]


def mean_rows(every: Sequence[Mapping[str, Volumes]]) -> list[str]:
    """For each source of areas, the mean difference over the studies, in Markdown."""

    def difference(kind: str, name: str, relative: bool) -> float:
        pairs = [(getattr(volumes[kind], name), getattr(volumes["the contours"], name)) for volumes in every]
        return float(np.mean([found / exact - 1 if relative else found - exact for found, exact in pairs]))

    return [
        f"| mean of studies | {kind} | {difference(kind, 'edv_ml', True):+.1%} "
        f"| {difference(kind, 'esv_ml', True):+.1%} | {difference(kind, 'ejection_fraction_percent', False):+.1f} |"
        for kind in every[0]
        if kind != "the contours"
    ]


def main() -> int:
    """Trains as the arguments say and prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.compare_masks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="as for examples.train_unet")
    parser.add_argument("--held_out", nargs="+", help="studies to hold out, one at a time (each that has pairs)")
    parser.add_argument("--output_dir", type=pathlib.Path, required=True, help="folder for models, logs and pictures")
    add_training_flags(parser)
    flags = parser.parse_args()
    of_dice: dict[str, list[StudyDice]] = {"naive": [], "exact": []}
    rows: list[str] = []
    every: list[Mapping[str, Volumes]] = []
    try:
        for study_id in flags.held_out or studies_with_pairs(flags.data_dir):
            results, volumes = compare(
                flags.data_dir, study_id, flags.output_dir, flags.epochs, flags.batch_size, flags.seed
            )
            for kind, result in results.items():
                of_dice[kind].append(result)
            rows += volume_rows(study_id, volumes)
            every.append(volumes)
    except (FatalInputError, RecordsError) as error:
        print(f"examples.compare_masks: {error}", file=sys.stderr)
        return 1
    for kind, found in of_dice.items():
        print(f"\nTrained on {kind} masks, held against exact ones:\n\n{table(found)}")
    print("\n| held-out study | areas from | EDV, ml | ESV, ml | ejection fraction, % |\n|---|---|---|---|---|")
    print("\n".join([*rows, *mean_rows(every)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
