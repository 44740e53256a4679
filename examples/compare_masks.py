"""Shows how masks that are too large affect the ejection fraction: one network, trained on naive and on exact masks.

    python -m examples.compare_masks --data_dir=final_data --output_dir=compared

For each study in turn, the network of examples.train_unet is trained on the other studies twice. The images, the order,
the augmentation and the seed are the same; the masks are once those of the records, and once drawn in the usual way, by
cv2.fillPoly on rounded vertices. The held-out study does not influence the training: every epoch runs, and the last one
counts.

Volumes come from slice summation, as in the records' studies.csv, and are compared with the volumes from the exact
areas of the held-out study's contours. The rows "masks alone" use no network: they sum the held-out study's masks.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from examples.train_unet import MODEL_FILE, StudyDice, add_training_flags, predict, table, train
from pipeline import DatasetInfo, Records, make_dataset, schema
from pipeline.errors import RecordsError
from preprocess import tables
from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import FatalInputError, Reason
from preprocess.geometry import Polygon, masks, polygons
from preprocess.inputs import sources
from preprocess.inputs.sources import Listing, Source
from preprocess.layouts import challenge
from preprocess.model import Pair
from preprocess.output import dtypes, outputs, writer
from preprocess.output.writer import Record, RecordSpec
from preprocess.quality.measurements import planned
from preprocess.quality.volumes import Volumes
from preprocess.run import run
from preprocess.stages import load


def fill_rounded(polygon: Polygon, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The naive mask, bool ``(H, W)``: vertices are rounded to whole pixels, and the whole boundary is filled."""
    image = np.zeros(shape, np.uint8)
    return np.asarray(cv2.fillPoly(image, [np.rint(polygon).astype(np.int32)], 1), np.bool_)


@dataclasses.dataclass(frozen=True)
class Contoured:
    """The pairs of a study that are in the records, in the same order, and the distance between its slices."""

    pairs: Sequence[Pair]
    slice_spacing_mm: float

    def volumes(self, areas: Iterable[float]) -> Volumes:
        """Volumes from an area in square pixels for each pair."""
        return Volumes.of(zip(map(planned, self.pairs), areas, strict=True), self.slice_spacing_mm)

    def contour_volumes(self) -> Volumes:
        """Volumes from the exact areas of the contours, which the others are compared with."""
        return self.volumes(polygons.area(pair.polygon) for pair in self.pairs)


def read_studies(source: Listing, config: Config) -> dict[str, Contoured]:
    """The pairs that a job with these settings has written, by study id."""
    records = str(config.output_dir)
    rows = tables.load(DatasetInfo.load(records).content(records, schema.PAIRS_FILE))
    written = {row["contour_path"] for row in rows if row["written"] == "1"}
    studies = {}
    for study in challenge.discover(source)[0]:
        content = load.load(source, config, study)
        pairs = [pair for pair in content.pairs["i"] if pair.contour_path in written]
        studies[study.study_id] = Contoured(pairs, content.summary.slice_spacing_mm)
    return studies


def write_naive(source: Source, config: Config, studies: Mapping[str, Contoured], naive: pathlib.Path) -> None:
    """Writes a job's records again, with naive masks in split ``train``; everything else is the same.

    Args:
        source: the data that the job read.
        config: its settings; ``output_dir`` is its records directory.
        studies: the result of :func:`read_studies`.
        naive: records directory to create.
    """
    records = str(config.output_dir)
    info = DatasetInfo.load(records)
    spec = RecordSpec(info.image_shape[:2], np.dtype(info.image_dtype))
    tables = {name: info.content(records, name) for name in info.files if name.endswith(".csv")}
    settings = {**info.settings, "train_masks": "cv2.fillPoly on rounded vertices"}
    with outputs.opened(naive, False) as output:
        shards = []
        for name, split in info.splits.items():
            pairs = (pair for study_id in split.studies for pair in studies[study_id].pairs)
            made = (_naive_record(source, config, pair, spec, name == "train") for pair in pairs)
            shards += writer.write_split(output.records, name, made, split.count, config.num_shards, spec)
        members = {name: split.studies for name, split in info.splits.items()}
        output.publish(writer.complete(output.records, spec, shards, members, settings, tables, {}))


def _naive_record(source: Source, config: Config, pair: Pair, spec: RecordSpec, naive: bool) -> Record:
    with sources.opened(source, pair.image_path, Reason.UNREADABLE_IMAGE) as file:
        image = reader.read_pixels(file, config.max_image_pixels)
    mask = (fill_rounded if naive else masks.rasterize)(pair.polygon, image.shape)
    return Record(pair, dtypes.to_dtype(image, spec.image_dtype), mask)


def compare(
    data_dir: pathlib.Path, study_id: str, output_dir: pathlib.Path, epochs: int, batch_size: int, seed: int
) -> tuple[dict[str, StudyDice], dict[str, Volumes]]:
    """Trains on naive and on exact masks with one study held out.

    Args:
        data_dir: folder or zip of studies.
        study_id: the study to hold out.
        output_dir: folder for the files of both trainings.
        epochs: number of epochs; all of them run.
        batch_size: images to a step.
        seed: of weights, order and augmentation.

    Returns:
        The results of the networks trained on ``naive`` and on ``exact`` masks, measured with exact masks; and the
        held-out study's volumes by the source of the areas, the contours first.
    """
    with tempfile.TemporaryDirectory() as name:
        directories = {"naive": pathlib.Path(name, "naive"), "exact": pathlib.Path(name, "exact")}
        config = Config(data_dir=data_dir, output_dir=directories["exact"], split=f"val={study_id}")
        run(config)
        source = sources.open_source(data_dir)
        studies = read_studies(source, config)
        write_naive(source, config, studies, directories["naive"])
        held_out = studies[study_id]
        volumes = volumes_without_network(held_out)
        batches = make_dataset(directories["exact"], "val", batch_size, shuffle=False, standardize=True)
        images = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
        results = {}
        for kind, records in directories.items():
            trained = output_dir / study_id / kind
            training, held_out_records = Records(records, "train"), Records(records, "val")
            (results[kind],) = train(
                training, held_out_records, trained, epochs=epochs, batch_size=batch_size, seed=seed
            )
            areas = predict(trained / MODEL_FILE, images).sum(axis=(1, 2, 3))
            volumes[f"network trained on {kind} masks"] = held_out.volumes(areas)
    return results, volumes


def volumes_without_network(study: Contoured) -> dict[str, Volumes]:
    """A study's volumes by the source of the areas: the contours, and naive and exact masks."""
    naive = [fill_rounded(pair.polygon, pair.header.shape) for pair in study.pairs]
    exact = [masks.rasterize(pair.polygon, pair.header.shape) for pair in study.pairs]
    return {
        "the contours": study.contour_volumes(),
        "naive masks alone": study.volumes(mask.sum() for mask in naive),
        "exact masks alone": study.volumes(mask.sum() for mask in exact),
    }


def volume_rows(study_id: str, volumes: Mapping[str, Volumes]) -> list[str]:
    """Rows of the table of volumes, in Markdown; differences are from the first source, the contours."""
    exact, *_ = volumes.values()
    return [
        f"| {study_id} | {kind} | {found.edv_ml:.1f} ({found.edv_ml / exact.edv_ml - 1:+.1%}) "
        f"| {found.esv_ml:.1f} ({found.esv_ml / exact.esv_ml - 1:+.1%}) "
        f"| {found.ejection_fraction_percent:.1f} "
        f"({found.ejection_fraction_percent - exact.ejection_fraction_percent:+.1f}) |"
        for kind, found in volumes.items()
    ]


def mean_rows(every: Sequence[Mapping[str, Volumes]]) -> list[str]:
    """Rows of the mean differences over the studies, one per source of areas, in Markdown."""

    def difference(kind: str, name: str, relative: bool) -> float:
        pairs = [(getattr(volumes[kind], name), getattr(volumes["the contours"], name)) for volumes in every]
        return float(np.mean([found / exact - 1 if relative else found - exact for found, exact in pairs]))

    return [
        f"| mean of studies | {kind} | {difference(kind, 'edv_ml', True):+.1%} "
        f"| {difference(kind, 'esv_ml', True):+.1%} | {difference(kind, 'ejection_fraction_percent', False):+.1f} |"
        for kind in every[0]
        if kind != "the contours"
    ]


def studies_with_pairs(data_dir: pathlib.Path) -> tuple[str, ...]:
    """Ids of the studies that have pairs."""
    with tempfile.TemporaryDirectory() as name:
        records = pathlib.Path(name, "records")
        run(Config(data_dir=data_dir, output_dir=records))
        return DatasetInfo.load(records).studies


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.compare_masks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="as for examples.train_unet")
    parser.add_argument(
        "--held_out", nargs="+", help="studies to hold out, one at a time (default: each study with pairs)"
    )
    parser.add_argument("--output_dir", type=pathlib.Path, required=True, help="folder for models, logs and pictures")
    add_training_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (%(default)s)")
    flags = parser.parse_args()
    of_dice: dict[str, list[StudyDice]] = {"naive": [], "exact": []}
    rows: list[str] = []
    every: list[Mapping[str, Volumes]] = []
    try:
        for study_id in flags.held_out or studies_with_pairs(flags.data_dir):
            # Standard output has the tables alone; Keras prints its progress there, too.
            with contextlib.redirect_stdout(sys.stderr):
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
        print(f"\nTrained on {kind} masks, measured with exact ones:\n\n{table(found)}")
    print("\n| held-out study | areas from | EDV, ml | ESV, ml | ejection fraction, % |\n|---|---|---|---|---|")
    print("\n".join([*rows, *mean_rows(every)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
