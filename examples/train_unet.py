"""Trains a small U-Net to find the left ventricle, and measures it on patients that it was not trained on.

    python -m examples.train_unet --data_dir=final_data --held_out=SCD0000101 --output_dir=unet
    python -m examples.train_unet --data_dir=final_data --cross_validate --seed 0 1 2 --output_dir=unet
    python -m examples.train_unet --data_dir=final_data --contours=io --cross_validate --output_dir=unet
    python -m examples.train_unet --records_dir=records --cross_validate --output_dir=unet
    python -m examples.train_unet --records_dir=records --output_dir=unet

The first command makes the records itself, and holds one study out. The second one holds out each study in turn, and
trains with three seeds each time. The third one trains on label maps, and measures the Dice of the blood pool and of
the myocardium. --records_dir reads existing records, also of label maps (python -m preprocess --contours=io). The last
command uses the splits train and val of the records (python -m preprocess --split=val=...).

Each training writes to its folder in the output directory, STUDY/seed-0 or seed-0, the network (unet.keras), logs for
TensorBoard, and held_out.png with the outlines of the network and of the human reader. Every epoch runs, and the last
one counts: the held-out study has no influence on the training.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.figure
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import Records, RecordsError, make_dataset
from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.run import run

SIDE = 128
"""Rows and columns around the image's middle that the network sees; the rest counts as background."""

MODEL_FILE = "unet.keras"
"""Name of a trained network in its output directory."""

_FILTERS = (16, 32, 64, 128)
_LEARNING_RATE = 2e-3

# Ranges of the augmentation: uniform between minus and plus these values.
_ROTATION = math.pi / 3
_LOG_SCALE = 0.3
_SHIFT_PIXELS = 12.0
_LOG_GAMMA = 0.4

Masks = npt.NDArray[np.bool_]


def dice(predicted: Masks, reference: Masks) -> float:
    """Twice the pixels that two masks share, divided by the pixels of both; 1 when both are empty."""
    pixels = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / pixels if pixels else 1.0


class PooledDice(keras.metrics.BinaryIoU):
    """Dice pooled over all pixels of all batches: 2 × IoU / (1 + IoU)."""

    def __init__(self) -> None:
        super().__init__(target_class_ids=[1], threshold=0.5, name="dice")

    def result(self) -> tf.Tensor:
        overlap = super().result()
        return 2 * overlap / (1 + overlap)


def loss(masks: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Soft Dice of the whole batch plus the mean cross-entropy of its pixels."""
    cross_entropy = keras.losses.binary_crossentropy(masks, probabilities)
    return keras.losses.dice(masks, probabilities) + keras.ops.mean(cross_entropy)


class MeanDice(keras.metrics.IoU):
    """As PooledDice for label maps, from the mean IoU of all classes but the first."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, range(1, classes), sparse_y_pred=False, name="dice")

    def result(self) -> tf.Tensor:
        overlap = super().result()
        return 2 * overlap / (1 + overlap)


def unet(image_shape: tuple[int, int, int], classes: int = 0) -> keras.Model:
    """A U-Net on the middle of an image; outside the middle the probability is 0.

    Args:
        image_shape: ``(H, W, 1)``, rows and columns at least ``SIDE``.
        classes: number of classes of a label map, of which the first is outside; 0 for a mask.

    Returns:
        A model from standardized images, float32 ``(n, H, W, 1)``, to probabilities of that shape, or of each class,
        ``(n, H, W, classes)``.

    Raises:
        RecordsError: the images are smaller than the middle that the network sees.
    """
    margins = [(size - SIDE) // 2 for size in image_shape[:2]]
    if min(margins) < 0:
        raise RecordsError(f"images are {image_shape[0]} × {image_shape[1]}, at least {SIDE} × {SIDE} expected")
    borders = [(margin, size - SIDE - margin) for margin, size in zip(margins, image_shape, strict=False)]
    images = keras.Input(image_shape)
    values = keras.layers.Cropping2D(borders)(images)
    levels = []
    for filters in _FILTERS[:-1]:
        levels.append(_convolutions(values, filters))
        values = keras.layers.MaxPooling2D()(levels[-1])
    values = _convolutions(values, _FILTERS[-1])
    for filters, level in zip(_FILTERS[-2::-1], reversed(levels), strict=True):
        enlarged = keras.layers.UpSampling2D(interpolation="bilinear")(values)
        values = _convolutions(keras.layers.Concatenate()([level, enlarged]), filters)
    if not classes:
        probabilities = keras.layers.Conv2D(1, 1, activation="sigmoid")(values)
        return keras.Model(images, keras.layers.ZeroPadding2D(borders)(probabilities))
    within = keras.layers.Conv2D(classes, 1, activation="softmax")(values)[..., 1:]
    regions = keras.layers.ZeroPadding2D(borders)(within)
    outside = 1 - keras.ops.sum(regions, axis=-1, keepdims=True)
    return keras.Model(images, keras.ops.concatenate([outside, regions], axis=-1))


def _convolutions(values: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    for _ in range(2):
        values = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(values)
        values = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(values))
    return values


@tf.autograph.experimental.do_not_convert
def augment(images: tf.Tensor, masks: tf.Tensor, step: tf.Tensor, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns, scales, shifts and mirrors each image and its mask by the same transform; varies brightness.

    Args:
        images: float32 ``(n, H, W, 1)``.
        masks: bool, or uint8 for label maps, of that shape.
        step: int64 scalar; the random values are a function of step and seed, so a resumed run repeats them.
        seed: seed of the whole run.

    Returns:
        The images, sampled bilinearly, and the masks, sampled at the nearest pixel; shapes and dtypes are the same.
    """
    count = tf.shape(images)[0]
    drawn = tf.random.stateless_uniform((6, count), tf.stack([tf.constant(seed, tf.int64), step]), -1.0, 1.0)
    angle, log_scale = _ROTATION * drawn[0], _LOG_SCALE * drawn[1]
    cosine, sine = tf.cos(angle) * tf.exp(log_scale), tf.sin(angle) * tf.exp(log_scale)
    mirror = tf.sign(drawn[4])
    # From a pixel of the output to its position in the input; the middle maps to the middle plus the shift.
    matrix = tf.stack([tf.stack([cosine * mirror, -sine], -1), tf.stack([sine * mirror, cosine], -1)], -2)
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    middle = (size[::-1] - 1) / 2
    offset = middle + _SHIFT_PIXELS * tf.transpose(drawn[2:4]) - tf.linalg.matvec(matrix, middle)
    affine = tf.reshape(tf.concat([matrix, offset[..., None]], -1), (count, 6))
    transforms = tf.concat([affine, tf.zeros((count, 2))], -1)

    def transformed(pixels: tf.Tensor, interpolation: str) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels,
            transforms=transforms,
            # The static shape: with a dynamic one, the size of the network's input would be unknown.
            output_shape=images.shape[1:3],
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="REFLECT",
        )

    gamma = tf.exp(_LOG_GAMMA * drawn[5])[:, None, None, None]
    images = _with_gamma(transformed(images, "BILINEAR"), gamma)
    return images, tf.cast(transformed(tf.cast(masks, tf.uint8), "NEAREST"), masks.dtype)


def _with_gamma(images: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """Raises brightness, relative to each image's lowest and highest value, to a power."""
    lowest = tf.reduce_min(images, axis=(1, 2, 3), keepdims=True)
    span = tf.maximum(tf.reduce_max(images, axis=(1, 2, 3), keepdims=True) - lowest, 1e-6)
    return lowest + span * ((images - lowest) / span) ** gamma


@dataclasses.dataclass(frozen=True)
class StudyDice:
    """The result of a network on a study that it was not trained on.

    Attributes:
        study_id: the study.
        pooled: Dice over all the study's pixels together.
        images: Dice of each image.
        seconds: duration of the training.
        region: the class of the label maps that is measured; empty for masks.
    """

    study_id: str
    pooled: float
    images: tuple[float, ...]
    seconds: float
    region: str = ""


def train(
    training: Records, held_out: Records, output_dir: pathlib.Path, *, epochs: int, batch_size: int, seed: int
) -> list[StudyDice]:
    """Trains on some records and measures on others; the last epoch counts.

    Args:
        training: records to train on.
        held_out: records of other studies.
        output_dir: folder for ``unet.keras``, ``tensorboard/`` and ``held_out.png``.
        epochs: number of epochs.
        batch_size: images per step.
        seed: seed of the weights, the order and the augmentation.

    Returns:
        The result of each held-out study, for each region of a label map.

    Raises:
        RecordsError: the images are too small.
    """
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    steps = math.ceil(len(training) / batch_size)
    # Without end, so that the steps of all epochs are counted.
    pairs = make_dataset(training, batch_size=batch_size, seed=seed, epochs=None, standardize=True)
    augmented = tf.data.Dataset.zip(pairs, tf.data.Dataset.counter()).map(
        lambda pair, step: augment(*pair, step, seed), num_parallel_calls=2, deterministic=True
    )
    in_order = make_dataset(held_out, batch_size=batch_size, shuffle=False, standardize=True)

    classes = len(training.info.mask_classes)
    model = unet(training.info.image_shape, classes)
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, epochs * steps)
    objective = keras.losses.SparseCategoricalCrossentropy() if classes else loss
    metric = MeanDice(classes) if classes else PooledDice()
    # XLA's convolutions are slower on a CPU than TensorFlow's own.
    model.compile(keras.optimizers.Adam(rate), objective, metrics=[metric], jit_compile=False)
    output_dir.mkdir(parents=True, exist_ok=True)
    model.fit(
        augmented.prefetch(2),
        epochs=epochs,
        steps_per_epoch=steps,
        validation_data=in_order,
        shuffle=False,
        verbose=2,
        callbacks=[keras.callbacks.TensorBoard(output_dir / "tensorboard")],
    )
    model.save(output_dir / MODEL_FILE)
    return measure(held_out, in_order, output_dir, time.perf_counter() - begin)


def measure(held_out: Records, in_order: tf.data.Dataset, output_dir: pathlib.Path, seconds: float) -> list[StudyDice]:
    """Measures the network that :func:`train` saved, and draws ``held_out.png``."""
    images, masks = (np.concatenate(arrays) for arrays in zip(*in_order.as_numpy_iterator(), strict=True))
    studies = held_out.table["study_id"]
    predicted = predict(output_dir / MODEL_FILE, images)
    regions = held_out.info.mask_classes[1:] or ("",)
    each = np.array(
        [
            [dice(found == label, mask == label) for found, mask in zip(predicted, masks, strict=True)]
            for label in range(1, len(regions) + 1)
        ]
    )
    titles = [
        f"{study}  {' '.join(f'{value:.3f}' for value in values)}"
        for study, values in zip(studies, each.T, strict=True)
    ]
    draw(images, masks, predicted, titles).savefig(output_dir / "held_out.png")
    return [
        StudyDice(
            study_id,
            dice(predicted[studies == study_id] == label, masks[studies == study_id] == label),
            tuple(each[label - 1, studies == study_id].tolist()),
            seconds,
            region,
        )
        for study_id in held_out.studies
        for label, region in enumerate(regions, start=1)
    ]


def predict(model: pathlib.Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
    """What a saved model predicts from standardized images ``(n, H, W, 1)``: masks, bool, or label maps, int64."""
    # Without loss and metric, which only training needs.
    probabilities = keras.models.load_model(model, compile=False).predict(images, batch_size=8, verbose=0)
    if probabilities.shape[-1] == 1:
        return np.asarray(probabilities >= 0.5)
    return np.asarray(probabilities.argmax(axis=-1, keepdims=True))


def draw(
    images: npt.NDArray[np.float32],
    masks: npt.NDArray[np.generic],
    predicted: npt.NDArray[np.generic],
    titles: Iterable[str],
) -> matplotlib.figure.Figure:
    """A contact sheet of ``(n, H, W, 1)`` arrays; the human reader's masks are outlined yellow, the network's red.

    Of label maps, each region is outlined.
    """
    columns = 6
    rows = math.ceil(len(images) / columns)
    sheet = matplotlib.figure.Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    axes = sheet.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    top, left = ((size - SIDE) // 2 for size in images.shape[1:3])
    for ax, image, mask, found, title in zip(axes, images, masks, predicted, titles, strict=False):
        ax.imshow(image[..., 0], cmap="gray")
        for outlined, color in ((mask, "gold"), (found, "red")):
            for label in range(1, int(outlined.max()) + 1):
                if (outlined == label).any():
                    ax.contour(outlined[..., 0] == label, [0.5], colors=color, linewidths=0.8)
        ax.set(xlim=(left, left + SIDE), ylim=(top + SIDE, top))
        ax.set_title(title, fontsize=7)
    return sheet


def table(results: Iterable[StudyDice]) -> str:
    """A Markdown table of results: a row per study, over all its trainings, and the mean of the studies.

    A mean is followed by the lowest and highest value in brackets.
    """
    of_study: dict[str, list[StudyDice]] = {}
    for result in results:
        of_study.setdefault(result.study_id, []).append(result)
    lines = ["| held-out study | trainings | Dice, pooled | mean of images | worst image | seconds |", "|---" * 6 + "|"]
    means = []
    for study_id, trainings in of_study.items():
        pooled = [result.pooled for result in trainings]
        images = [float(np.mean(result.images)) for result in trainings]
        worst = [min(result.images) for result in trainings]
        means.append([np.mean(pooled), np.mean(images), np.mean(worst)])
        columns = " | ".join(f"{np.mean(values):.3f}{_range(values)}" for values in (pooled, images, worst))
        seconds = np.mean([result.seconds for result in trainings])
        lines.append(f"| {study_id} | {len(trainings)} | {columns} | {seconds:.0f} |")
    columns = " | ".join(f"{value:.3f}" for value in np.mean(means, axis=0))
    return "\n".join([*lines, f"| mean of studies | | {columns} | |"])


def _range(values: Sequence[float]) -> str:
    """Lowest and highest of several values."""
    return f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that the training examples share."""
    parser.add_argument("--epochs", type=int, default=80, help="number of epochs (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step (%(default)s)")


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_unet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data_dir", type=pathlib.Path, help="folder or zip of studies, as for python -m preprocess")
    source.add_argument("--records_dir", type=pathlib.Path, help="records with the splits train and val")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--held_out", help="study to hold out; several as A+B")
    which.add_argument("--cross_validate", action="store_true", help="hold out each study in turn")
    parser.add_argument("--output_dir", type=pathlib.Path, required=True, help="folder for models, logs and pictures")
    parser.add_argument(
        "--contours",
        choices=("i", "o", "io"),
        default="i",
        help="what --data_dir makes, as in preprocess (%(default)s)",
    )
    add_training_flags(parser)
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[0],
        help="seeds of weights, order and augmentation, a training for each (%(default)s)",
    )
    flags = parser.parse_args()
    if flags.data_dir is not None and not (flags.held_out or flags.cross_validate):
        parser.error("--data_dir needs --held_out or --cross_validate")
    results: list[StudyDice] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for training, held_out, output_dir in _folds(flags, pathlib.Path(scratch)):
                for seed in flags.seed:
                    # Standard output has the tables alone; Keras prints its progress there, too.
                    with contextlib.redirect_stdout(sys.stderr):
                        results += train(
                            training,
                            held_out,
                            output_dir / f"seed-{seed}",
                            epochs=flags.epochs,
                            batch_size=flags.batch_size,
                            seed=seed,
                        )
                        print(f"\n{tables(results)}\n", flush=True)
    except (FatalInputError, RecordsError) as error:
        print(f"examples.train_unet: {error}", file=sys.stderr)
        return 1
    print(tables(results))
    return 0


def tables(results: Sequence[StudyDice]) -> str:
    """The :func:`table` of each region, under its name where there are several."""
    regions = dict.fromkeys(result.region for result in results)
    return "\n\n".join(
        (f"{region}:\n\n" if region else "") + table(result for result in results if result.region == region)
        for region in regions
    )


def _folds(flags: argparse.Namespace, scratch: pathlib.Path) -> Iterator[tuple[Records, Records, pathlib.Path]]:
    """Records to train on, records held out, and output directory of each training."""
    directory = flags.records_dir
    if directory is None:
        directory = scratch / "records"
        run(Config(data_dir=flags.data_dir, output_dir=directory, contours=flags.contours))
    if flags.cross_validate:
        for study_id in Records(directory).studies:
            yield *hold_out(directory, [study_id]), flags.output_dir / study_id
    elif flags.held_out:
        yield *hold_out(directory, flags.held_out.split("+")), flags.output_dir
    else:
        yield Records(directory, "train"), Records(directory, "val"), flags.output_dir


def hold_out(directory: pathlib.Path, studies: Sequence[str]) -> tuple[Records, Records]:
    """The records of all other studies, and those of the given ones.

    Raises:
        RecordsError: a study has no records.
    """
    records = Records(directory)
    unknown = set(studies).difference(records.studies)
    if unknown:
        raise RecordsError(
            f"{directory}: no records of {', '.join(sorted(unknown))}; studies are {', '.join(records.studies)}"
        )
    chosen = np.isin(records.table["study_id"], studies)
    return records.where(~chosen), records.where(chosen)


if __name__ == "__main__":
    sys.exit(main())
