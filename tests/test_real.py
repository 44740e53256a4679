"""The four real studies, if they are present."""

import pathlib
import re
import shutil
import subprocess
import sys
import zlib
from typing import Any

import keras
import numpy as np
import pydicom
import pytest
import tensorflow as tf

from benchmarks.exact import pixel_areas
from pipeline import DatasetInfo, iterate_batches, make_dataset, verify
from preprocess.config import Config
from preprocess.report.page import write_report
from preprocess.run import run

from .helpers import ROOT
from .helpers.tables import audit_of, found_by, read_table

STUDIES = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000301": "SC-HF-I-4", "SCD0000401": "SC-HF-I-5"}

Key = tuple[str, int]


@pytest.fixture(scope="module")
def images(real_data: pathlib.Path) -> dict[bytes, Key]:
    """Study and number of every image that has an i-contour, by its pixels; read by pydicom alone."""
    found = {}
    for study, contours in STUDIES.items():
        for path in (real_data / "contourfiles" / contours / "i-contours").iterdir():
            number = int(path.name[8:12])
            pixels = pydicom.dcmread(real_data / "dicoms" / study / f"{number}.dcm").pixel_array
            found[pixels.tobytes()] = study, number
    assert len(found) == 74
    return found


def epochs_of(batches: Any, images: dict[bytes, Key]) -> list[list[Key]]:
    """The pairs of two epochs, in order, identified by their pixels."""
    keys = [images[image.tobytes()] for batch, _ in batches for image in batch]
    assert len(keys) == 148
    return [keys[:74], keys[74:]]


def test_the_job_writes_74_records(real_records: pathlib.Path) -> None:
    info = DatasetInfo.load(real_records)
    assert info.cardinality == 74
    assert info.studies == tuple(STUDIES)
    assert (info.image_shape, info.image_dtype) == ((256, 256, 1), np.int16)
    assert list(verify.faults(real_records)) == []


def test_the_audit_has_one_missing_study_and_846_unlabeled_images(real_records: pathlib.Path) -> None:
    rows = audit_of(real_records)
    assert [(row["study_id"], row["level"]) for row in rows if row["reason"] == "missing_study"] == [
        ("SCD0000501", "error")
    ]
    unlabeled = [int(row["detail"].split()[0]) for row in rows if row["reason"] == "unlabeled_images"]
    assert (len(unlabeled), sum(unlabeled)) == (4, 846)
    # docs/ANSWERS.md discusses the one warning.
    rest = [row for row in rows if row["reason"] not in ("missing_study", "unlabeled_images")]
    assert [(row["reason"], row["study_id"], row["instance_number"], row["level"]) for row in rest] == [
        ("volume_order", "SCD0000401", "187", "warning")
    ]


def test_volumes_and_registration_are_those_measured_before(real_records: pathlib.Path) -> None:
    """Ejection fractions, and contours that lie less than 2 pixels up and left, as measured for the design."""
    rows = read_table(real_records / "studies.csv")
    fractions = [float(row["ejection_fraction_percent"]) for row in rows]
    assert fractions == pytest.approx([26.1, 25.5, 21.8, 33.1], abs=0.1)
    assert [float(row["slice_spacing_mm"]) for row in rows] == pytest.approx([10, 10, 8, 8], abs=0.01)
    for row in rows:
        dx, dy = float(row["registration_peak_dx_px"]), float(row["registration_peak_dy_px"])
        assert -1.5 <= dx <= 0
        assert -1.5 <= dy <= 0
        assert float(row["registration_peak"]) >= float(row["registration_rest"]) > 50


def test_both_readers_give_every_pair_once_an_epoch(real_records: pathlib.Path, images: dict[bytes, Key]) -> None:
    ours = epochs_of(iterate_batches(real_records, seed=4, epochs=2, image_dtype=None), images)
    dataset = make_dataset(real_records, seed=4, epochs=2, image_dtype=None)
    assert epochs_of(dataset.as_numpy_iterator(), images) == ours
    assert set(ours[0]) == set(ours[1]) == set(images.values())
    assert ours[0] != ours[1]
    other = epochs_of(iterate_batches(real_records, seed=5, epochs=2, image_dtype=None), images)
    assert other[0] != ours[0]

    code = (
        "from pipeline import iterate_batches\nimport zlib\n"
        f"batches = iterate_batches({str(real_records)!r}, seed=4, epochs=2, image_dtype=None)\n"
        "print(*(zlib.crc32(image.tobytes()) for batch, _ in batches for image in batch))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    expected = [
        tf.io.decode_raw(image.tobytes(), tf.int16).numpy().tobytes()
        for batch, _ in make_dataset(real_records, seed=4, epochs=2, image_dtype=None).as_numpy_iterator()
        for image in batch
    ]
    assert result.stdout.split() == [str(zlib.crc32(content)) for content in expected]


def test_contours_moved_by_4_pixels_are_found(real_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "dicoms").symlink_to(next(real_data.rglob("dicoms")))
    (tmp_path / "link.csv").symlink_to(next(real_data.rglob("link.csv")))
    shutil.copytree(next(real_data.rglob("contourfiles")), tmp_path / "contourfiles")
    for path in (tmp_path / "contourfiles" / STUDIES["SCD0000201"]).rglob("*.txt"):
        np.savetxt(path, np.loadtxt(path) + (4, 0), "%.2f")
    run(Config(tmp_path, tmp_path / "records"))
    assert found_by(tmp_path / "records", "misregistered") == [("SCD0000201", "", "warning")]


def test_the_report_shows_every_pair(
    real_data: pathlib.Path, real_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_report(real_data, real_records, tmp_path)
    rows = read_table(real_records / "pairs.csv")
    for number, study_id in enumerate(STUDIES, start=1):
        page = (tmp_path / "studies" / f"000{number}.html").read_text("utf-8")
        assert f"<h1>{study_id}</h1>" in page
        shown = sorted(int(number) for number in re.findall(r'<figure id="pair-(\d+)"', page))
        assert shown == [int(row["instance_number"]) for row in rows if row["study_id"] == study_id]


def test_every_mask_is_that_of_the_contour(
    real_records: pathlib.Path, real_data: pathlib.Path, images: dict[bytes, Key]
) -> None:
    seen = 0
    for batch, masks in iterate_batches(real_records, epochs=1, image_dtype=None):
        for image, mask in zip(batch, masks, strict=True):
            study, number = images[image.tobytes()]
            name = f"IM-0001-{number:04d}-icontour-manual.txt"
            polygon = np.loadtxt(real_data / "contourfiles" / STUDIES[study] / "i-contours" / name)
            areas = pixel_areas(polygon, (256, 256))
            clear = np.abs(areas - 0.5) > 1e-9
            assert np.array_equal(mask[clear, 0], areas[clear] > 0.5), (study, number)
            seen += 1
    assert seen == 74


def test_slice_and_phase_are_those_of_the_numbering(real_records: pathlib.Path) -> None:
    seen = 0
    for path in real_records.glob("*.tfrecord-?????-of-?????"):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(data).features.feature
            number, slice_index, phase_index = (
                feature[f"meta/{name}"].int64_list.value[0]
                for name in ("instance_number", "slice_index", "phase_index")
            )
            assert (slice_index, phase_index) == divmod(number - 1, 20)
            seen += 1
    assert seen == 74


def test_keras_trains_two_epochs(real_records: pathlib.Path) -> None:
    model = keras.Sequential(
        [keras.Input((256, 256, 1)), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    )
    model.compile("adam", "binary_crossentropy")
    train = make_dataset(real_records, standardize=True)
    steps = DatasetInfo.load(real_records).splits["train"].steps_per_epoch(8)
    history = model.fit(train, epochs=2, steps_per_epoch=steps, shuffle=False, verbose=0)
    first, second = history.history["loss"]
    assert second < first
