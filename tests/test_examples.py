import math
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples import compare_masks, train_unet
from pipeline import DatasetInfo, Records, iterate_batches
from preprocess.config import Config
from preprocess.inputs import sources
from preprocess.run import run

from .helpers import ROOT
from .helpers.tables import read_table


def test_dice_is_twice_the_shared_pixels_over_all() -> None:
    predicted = np.array([[True, True, True], [False, False, False]])
    reference = np.array([[True, True, False], [False, False, False]])
    assert train_unet.dice(predicted, reference) == 4 / 5
    assert train_unet.dice(~predicted, reference) == 0
    assert train_unet.dice(predicted & ~predicted, reference & ~reference) == 1


def test_the_metric_pools_all_pixels_that_it_is_shown() -> None:
    rng = np.random.default_rng(0)
    predicted, reference = rng.random((2, 6, 5, 4, 1)) < np.linspace(0.1, 0.8, 6)[:, None, None, None]
    metric = train_unet.PooledDice()
    for batch in (slice(0, 4), slice(4, 6)):
        metric.update_state(reference[batch], predicted[batch].astype(np.float32))
    assert float(metric.result()) == pytest.approx(train_unet.dice(predicted, reference))


def _discs(count: int, shape: tuple[int, int]) -> np.ndarray:
    """Masks ``(count, H, W, 1)`` of discs beside the middle."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    centers = np.random.default_rng(0).uniform(-15, 15, (count, 2)) + np.array(shape) / 2
    distance = np.hypot(y - centers[:, :1, None], x - centers[:, 1:, None])
    return (distance < 20)[..., None]


def test_augmentation_moves_image_and_mask_alike() -> None:
    masks = _discs(16, (150, 190))
    images = np.where(masks, 2.0, -1.0).astype(np.float32)
    for step in range(3):
        moved, moved_masks = (
            array.numpy() for array in train_unet.augment(images, masks, tf.constant(step, tf.int64), 0)
        )
        assert moved.shape == images.shape
        assert moved.dtype == np.float32
        assert moved_masks.dtype == np.bool_
        for image, mask, before in zip(moved > 0.5, moved_masks, masks, strict=True):
            assert train_unet.dice(image, mask) > 0.97
            assert train_unet.dice(mask, before) < 0.97
            # There is one disc, and its size changes within the limits of the scale.
            assert math.exp(-0.6) * 0.95 < mask.sum() / before.sum() < math.exp(0.6) * 1.05


def test_augmentation_is_a_function_of_seed_and_step() -> None:
    masks = _discs(2, (128, 128))
    images = masks.astype(np.float32)

    def drawn(step: int, seed: int) -> np.ndarray:
        return train_unet.augment(images, masks, tf.constant(step, tf.int64), seed)[1].numpy()

    assert (drawn(5, 1) == drawn(5, 1)).all()
    assert (drawn(5, 1) != drawn(6, 1)).any()
    assert (drawn(5, 1) != drawn(5, 2)).any()


def test_the_network_sees_the_middle_and_answers_for_the_whole() -> None:
    model = train_unet.unet((131, 200, 1))
    probabilities = model(np.random.default_rng(0).normal(size=(1, 131, 200, 1))).numpy()
    assert probabilities.shape == (1, 131, 200, 1)
    assert (probabilities > 0).sum() == train_unet.SIDE**2
    assert (probabilities[:, 1:129, 36:164] > 0).all()
    with pytest.raises(ValueError, match="127 × 200, at least 128 × 128"):
        train_unet.unet((127, 200, 1))


def test_a_network_of_label_maps_gives_the_probability_of_each_class() -> None:
    model = train_unet.unet((131, 200, 1), classes=3)
    probabilities = model.predict(np.ones((1, 131, 200, 1), np.float32), verbose=0)[0]
    assert probabilities.shape == (131, 200, 3)
    assert probabilities.sum(axis=-1) == pytest.approx(1, abs=1e-6)
    assert (probabilities[..., 1] > 0).sum() == train_unet.SIDE**2
    middle = np.s_[1:129, 36:164]
    outside = np.ones((131, 200), np.bool_)
    outside[middle] = False
    assert (probabilities[outside] == [1, 0, 0]).all()


def test_the_metric_of_label_maps_leaves_the_outside_out() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2], np.uint8)[:, None]
    predicted = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 1, 2, 0]]
    metric = train_unet.MeanDice(3)
    metric.update_state(labels, predicted)
    overlap = (1 + 1 / 2) / 2
    assert float(metric.result()) == pytest.approx(2 * overlap / (1 + overlap))


def test_label_maps_are_turned_without_new_classes(phantom_label_maps: pathlib.Path) -> None:
    images, masks = next(iter(iterate_batches(phantom_label_maps, batch_size=8, seed=0)))
    _, turned = train_unet.augment(tf.constant(images), tf.constant(masks), tf.constant(3, tf.int64), 0)
    assert turned.dtype == tf.uint8
    assert set(np.unique(turned)) == {0, 1, 2}


# NumPy 2 warns about how Keras converts TensorFlow's variables to arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.clients
def test_train_unet_measures_each_class_of_label_maps(
    phantom_label_maps: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")
    command = ["train_unet", f"--records_dir={phantom_label_maps}", f"--output_dir={tmp_path}", "--epochs=1"]
    monkeypatch.setattr("sys.argv", command)
    assert train_unet.main() == 0
    _, pool, wall = re.split("^(?=blood pool|myocardium)", capsys.readouterr().out, flags=re.MULTILINE)
    for text in (pool, wall):
        assert text.count("| PHANTOM002 |") == 1
    model = keras.models.load_model(tmp_path / "seed-0" / "unet.keras", compile=False)
    assert model.output_shape == (None, 256, 256, 3)


# NumPy 2 warns about how Keras converts TensorFlow's variables to arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.clients
def test_train_unet_leaves_a_model_logs_and_a_picture_of_each_seed(
    phantom_records: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard")
    command = ["train_unet", f"--records_dir={phantom_records}", f"--output_dir={tmp_path}", "--epochs=1"]
    # Batches of 5: the last of an epoch is short.
    monkeypatch.setattr("sys.argv", [*command, "--batch_size=5", "--seed", "0", "7"])
    assert train_unet.main() == 0
    *_, row, _ = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert re.match(r"\| PHANTOM002 \| 2 \| 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) \|", row)
    for seed in (0, 7):
        output_dir = tmp_path / f"seed-{seed}"
        assert list((output_dir / "tensorboard" / "validation").glob("events.out.tfevents.*"))
        assert (output_dir / "held_out.png").read_bytes().startswith(b"\x89PNG")
        model = keras.models.load_model(output_dir / "unet.keras", compile=False)
        assert model.output_shape == (None, 256, 256, 1)


def test_table_has_mean_and_range_over_the_trainings_of_each_study() -> None:
    results = [
        train_unet.StudyDice("A", 0.8, (0.5, 0.9), 10),
        train_unet.StudyDice("A", 0.9, (0.7, 0.9), 20),
        train_unet.StudyDice("B", 0.5, (0.5, 0.5), 30),
    ]
    assert train_unet.table(results).splitlines()[2:] == [
        "| A | 2 | 0.850 (0.800 to 0.900) | 0.750 (0.700 to 0.800) | 0.600 (0.500 to 0.700) | 15 |",
        "| B | 1 | 0.500 | 0.500 | 0.500 | 30 |",
        "| mean of studies | | 0.675 | 0.625 | 0.550 | |",
    ]


def test_train_unet_reports_missing_data_in_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train_unet", f"--data_dir={tmp_path / 'absent'}", "--held_out=A", f"--output_dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", command)
    assert train_unet.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("examples.train_unet: ")
    assert error.count("\n") == 1


def test_naive_records_differ_in_the_masks_of_the_training_split_only(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = Config(data_dir=phantom_dir, output_dir=tmp_path / "exact", split="val=PHANTOM002")
    run(config)
    source = sources.open_source(phantom_dir)
    studies = compare_masks.read_studies(source, config)
    compare_masks.write_naive(source, config, studies, tmp_path / "naive")
    assert DatasetInfo.load(tmp_path / "naive").studies == DatasetInfo.load(tmp_path / "exact").studies
    for split, alike in (("train", False), ("val", True)):
        both = [
            iterate_batches(tmp_path / name, split, shuffle=False, epochs=1, image_dtype=None)
            for name in ("naive", "exact")
        ]
        for (naive_images, naive), (images, exact) in zip(*both, strict=True):
            assert (naive_images == images).all()
            assert (naive == exact).all() == alike
            assert (naive.sum(axis=(1, 2, 3)) >= exact.sum(axis=(1, 2, 3))).all()


def test_volumes_from_the_contours_are_those_of_the_records(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = Config(data_dir=phantom_dir, output_dir=tmp_path / "records")
    run(config)
    studies = compare_masks.read_studies(sources.open_source(phantom_dir), config)
    rows = [row for row in read_table(tmp_path / "records" / "studies.csv") if row["pairs"] != "0"]
    assert rows
    for row in rows:
        contoured = studies[row["study_id"]]
        assert contoured.contour_volumes().edv_ml == pytest.approx(float(row["edv_ml"]), rel=1e-5)


@pytest.mark.clients
def test_dice_in_pytorch_is_that_of_each_study(phantom_records: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    from examples import train_torch

    records = Records(phantom_records)
    model = train_torch.UNet().eval()
    found = train_torch.dice(model, records, batch_size=7)
    assert model.training
    model.eval()
    of_study: dict[str, list[np.ndarray]] = {}
    for (image, mask), study in zip(records, records.table["study_id"].tolist(), strict=True):
        standardized = (image - image.mean()) / image.std()
        top, left = ((size - train_torch.SIDE) // 2 for size in mask.shape[:2])
        middle = np.s_[top : top + train_torch.SIDE, left : left + train_torch.SIDE]
        predicted = np.zeros_like(mask)
        with torch.no_grad():
            predicted[middle] = model(torch.from_numpy(standardized[middle]).movedim(-1, 0)[None])[0].movedim(0, -1) > 0
        of_study.setdefault(study, []).append(np.stack([predicted, mask]))
    assert set(found) == set(of_study)
    assert len(found) > 1
    for study, pairs in of_study.items():
        assert found[study] == pytest.approx(train_unet.dice(*np.stack(pairs, axis=1)), abs=1e-4)


@pytest.mark.clients
def test_train_torch_prints_a_score_and_saves_the_model(phantom_records: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    from examples import train_torch

    # In a separate process: PyTorch's optimizers crash in a process that has loaded TensorFlow.
    command = [
        "-m",
        "examples.train_torch",
        f"--records_dir={phantom_records}",
        f"--output_dir={tmp_path}",
        "--held_out=PHANTOM002",
        "--epochs=1",
    ]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "held-out Dice PHANTOM002 0." in result.stdout
    train_torch.UNet().load_state_dict(torch.load(tmp_path / "unet.pt"))
    command[-2] = "--held_out=PHANTOM009"
    refused = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "examples.train_torch: no study PHANTOM009; there are PHANTOM001, " in refused.stderr


@pytest.mark.clients
def test_augmentation_in_pytorch_moves_image_and_mask_alike() -> None:
    torch = pytest.importorskip("torch")
    from examples import train_torch

    masks = torch.from_numpy(_discs(16, (150, 190))).movedim(-1, 1)
    moved, moved_masks = (array.numpy() > 0.5 for array in train_torch.augment(masks.float(), masks))
    assert moved.shape == (16, 1, train_torch.SIDE, train_torch.SIDE)
    for image, mask in zip(moved, moved_masks, strict=True):
        assert train_unet.dice(image, mask) > 0.97
