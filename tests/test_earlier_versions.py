"""Records that version 0.1.0 wrote are read: tests/data/README.md says how they were made."""

import csv
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import pipeline
from pipeline import DatasetInfo, Records, iterate_batches, make_dataset, verify
from preprocess import phantom
from preprocess.config import Config
from preprocess.report.page import write_report

from .helpers import ROOT
from .helpers.records import pairs_of

OLD = ROOT / "tests" / "data" / "records-0.1.0"
SPLITS = {"train": ("PHANTOM001", "PHANTOM003"), "val": ("PHANTOM002",)}
SHAPE = (40, 40, 1)

Samples = dict[tuple[str, int], tuple[bytes, bytes]]


def samples_of(records: pathlib.Path) -> Samples:
    """Image and mask of each study and number, as TensorFlow reads them."""
    return {key: (image, mask) for key, image, mask in pairs_of(records)}


@pytest.fixture(scope="module")
def old() -> Samples:
    return samples_of(OLD)


def of_split(old: Samples, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and masks of a split, in storage order."""
    chosen = [old[key] for key in sorted(old) if key[0] in SPLITS[split]]
    images = np.stack([np.frombuffer(image, "<i2").reshape(SHAPE) for image, _ in chosen])
    return images, np.stack([np.frombuffer(mask, bool).reshape(SHAPE) for _, mask in chosen])


def test_todays_job_writes_the_same_samples(phantom_dir: pathlib.Path, old: Samples, tmp_path: pathlib.Path) -> None:
    from preprocess.run import run

    config = Config(
        phantom_dir,
        tmp_path / "records",
        pixel_spacing_mm=2.5,
        image_size=SHAPE[:2],
        split="val=PHANTOM002",
        num_shards=2,
    )
    run(config)
    new = samples_of(tmp_path / "records")
    # Version 0.1.0's phantom has the contour of this image on its heart.
    image, mask = old[phantom.MOVED]
    moved_image, moved_mask = new[phantom.MOVED]
    assert image == moved_image
    assert mask != moved_mask
    assert {**old, phantom.MOVED: (moved_image, moved_mask)} == new
    assert len(old) == 36
    assert Records(OLD).info.tool_version == "0.1.0" != pipeline.__version__


def test_they_verify() -> None:
    assert list(verify.faults(OLD)) == []


def numpy_batches(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    batches = iterate_batches(OLD, split, batch_size=5, shuffle=False, image_dtype=None)
    return [(images, masks) for images, masks in batches]


def tensorflow_batches(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(make_dataset(OLD, split, batch_size=5, shuffle=False, image_dtype=None).as_numpy_iterator())


@pytest.mark.parametrize("batches_of", [numpy_batches, tensorflow_batches])
@pytest.mark.parametrize("split", SPLITS)
def test_both_readers_give_every_sample(
    batches_of: Callable[[str], list[tuple[np.ndarray, np.ndarray]]], split: str, old: Samples
) -> None:
    batches = batches_of(split)
    images, masks = of_split(old, split)
    assert np.array_equal(np.concatenate([images for images, _ in batches]), images)
    assert np.array_equal(np.concatenate([masks for _, masks in batches]), masks)


@pytest.mark.filterwarnings("ignore:the folds mix the splits:UserWarning")
def test_records_are_read_by_position_and_by_their_table(old: Samples) -> None:
    records = Records(OLD)
    expected = [*zip(*of_split(old, "train"), strict=True), *zip(*of_split(old, "val"), strict=True)]
    assert len(records) == len(expected)
    for (image, mask), (expected_image, expected_mask) in zip(records, expected, strict=True):
        assert np.array_equal(image, expected_image)
        assert np.array_equal(mask, expected_mask)
    with (OLD / "pairs.csv").open(newline="") as file:
        areas = {
            (row["study_id"], int(row["instance_number"])): int(row["mask_area_px"])
            for row in csv.DictReader(file)
            if row["written"] == "1"
        }
    keys = list(zip(records.table["study_id"], records.table["instance_number"], strict=True))
    assert keys == [key for split in SPLITS.values() for key in sorted(old) if key[0] in split]
    assert records.table["mask_area_px"].tolist() == [areas[key] for key in keys]
    assert records.table["mask_area_px"].tolist() == [int(mask.sum()) for _, mask in records]
    train, val = records.split(0, 3)
    assert set(train.studies) | set(val.studies) == {"PHANTOM001", "PHANTOM002", "PHANTOM003"}


def test_their_content_is_printed() -> None:
    command = [sys.executable, "-m", "pipeline", str(OLD)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "36 records of 3 studies" in result.stdout
    assert "written by version 0.1.0" in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(("train", "val"))] == [
        ["train", "24"],
        ["val", "12"],
    ]


def test_the_report_shows_them(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    records = shutil.copytree(OLD, tmp_path / "records")
    page = write_report(phantom_dir, records, tmp_path / "report")
    text = page.read_text("utf-8")
    for study in phantom.STUDIES:
        assert study in text


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("split", SPLITS)
def test_tfds_reads_them(split: str, old: Samples) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="make test-clients installs it")
    builder = tfds.builder_from_directory(OLD)
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    examples = list(tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order)))
    images, masks = of_split(old, split)
    assert np.array_equal(np.stack([example["image"] for example in examples]), images)
    assert np.array_equal(np.stack([example["mask"] for example in examples]), masks)
    assert builder.info.splits[split].num_examples == DatasetInfo.load(OLD).splits[split].count
