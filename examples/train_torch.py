"""Trains a small U-Net with PyTorch; several processes read the batches.

    python -m preprocess --data_dir=final_data --output_dir=records --split=val=SCD0000101
    python -m examples.train_torch --records_dir=records --output_dir=unet-torch

Each worker of the DataLoader iterates over its own share of every epoch (``shard`` of ``iterate_batches``), so no
record comes twice in an epoch. If the number of records is not a multiple of the number of workers, each epoch leaves
out the remainder, different records each time. TensorFlow is not needed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.utils.data
from torch import nn
from torch.nn import functional

from pipeline import DatasetInfo, iterate_batches, order
from pipeline.errors import RecordsError

SIDE = 128
"""Rows and columns around the image's middle that the network sees; the rest counts as background."""

_FILTERS = (16, 32, 64, 128)
_LEARNING_RATE = 2e-3


class Records(torch.utils.data.IterableDataset):
    """Batches of a split; each worker of a DataLoader yields its share.

    Yields images, float32 ``(n, 1, H, W)``, and masks, bool of that shape. Use it with
    ``DataLoader(..., batch_size=None)``, because these are batches already.

    Args:
        records: records directory.
        split: name of the split.
        batch_size: records per batch.
        epochs: number of epochs.
        seed: seed of the order.
    """

    def __init__(self, records: pathlib.Path, split: str, batch_size: int, epochs: int, seed: int) -> None:
        self._records = records
        self._split = split
        self._batch_size = batch_size
        self._epochs = epochs
        self._seed = seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        shard = None if worker is None else (worker.id, worker.num_workers)
        batches = iterate_batches(
            self._records,
            self._split,
            self._batch_size,
            seed=self._seed,
            epochs=self._epochs,
            shard=shard,
            standardize=True,
        )
        for images, masks in batches:
            yield torch.from_numpy(images).movedim(-1, 1), torch.from_numpy(masks).movedim(-1, 1)


def steps_per_epoch(count: int, batch_size: int, num_workers: int) -> int:
    """Batches that all workers together yield in an epoch of ``count`` records."""
    workers = max(1, num_workers)
    return workers * order.steps_per_epoch(count // workers, batch_size)


class UNet(nn.Module):
    """From images, float32 ``(n, 1, H, W)``, H and W multiples of 8, to logits of that shape."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(map(_convolutions, (1, *_FILTERS), _FILTERS))
        self.up = nn.ModuleList(_convolutions(above + below, above) for above, below in itertools.pairwise(_FILTERS))
        self.last = nn.Conv2d(_FILTERS[0], 1, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The logits."""
        levels = [self.down[0](values)]
        for convolutions in self.down[1:]:
            levels.append(convolutions(functional.max_pool2d(levels[-1], 2)))
        values = levels.pop()
        for convolutions in reversed(self.up):
            enlarged = functional.interpolate(values, scale_factor=2, mode="bilinear")
            values = convolutions(torch.cat([levels.pop(), enlarged], 1))
        return self.last(values)


def _convolutions(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            layer
            for inputs in (channels, filters)
            for layer in (nn.Conv2d(inputs, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU())
        )
    )


def augment(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns, scales, shifts and mirrors the middle of each image and its mask by the same transform.

    Args:
        images: float32 ``(n, 1, H, W)``.
        masks: bool of that shape.

    Returns:
        float32 ``(n, 1, SIDE, SIDE)`` both: images sampled bilinearly, masks at the nearest pixel.
    """
    count, _, rows, columns = images.shape
    angle, log_scale, mirror, dx, dy = 2 * torch.rand(5, count) - 1
    cosine, sine = (part(angle * math.pi / 3) * torch.exp(0.3 * log_scale) for part in (torch.cos, torch.sin))
    mirror = mirror.sign()
    # Coordinates run from -1 to 1 over the input and over the output; the shifts are in pixels.
    matrix = torch.stack(
        [
            torch.stack([cosine * mirror * SIDE / columns, -sine * SIDE / columns, 24 * dx / columns], -1),
            torch.stack([sine * mirror * SIDE / rows, cosine * SIDE / rows, 24 * dy / rows], -1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, [count, 1, SIDE, SIDE], align_corners=False)
    transformed = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return transformed, functional.grid_sample(
        masks.float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )


def loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Soft Dice of the whole batch plus the mean cross-entropy of its pixels."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * masks).sum() / (probabilities.sum() + masks.sum()).clamp(min=1)
    return 1 - overlap + functional.binary_cross_entropy_with_logits(logits, masks)


@torch.no_grad()
def dice(model: UNet, records: pathlib.Path, split: str, batch_size: int) -> float:
    """Dice of a split, pooled over all pixels of its images, including those outside the middle."""
    model.eval()
    shared = pixels = 0
    for images, masks in Records(records, split, batch_size, epochs=1, seed=0):
        top, left = ((size - SIDE) // 2 for size in images.shape[2:])
        middle = np.s_[..., top : top + SIDE, left : left + SIDE]
        found = model(images[middle]) > 0
        shared += int((found & masks[middle]).sum())
        pixels += int(found.sum()) + int(masks.sum())
    model.train()
    return 2 * shared / pixels


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_torch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records_dir", type=pathlib.Path, required=True, help="records with splits train and val")
    parser.add_argument("--output_dir", type=pathlib.Path, required=True, help="folder for the weights, unet.pt")
    parser.add_argument("--epochs", type=int, default=80, help="number of epochs (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step (%(default)s)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read batches (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (%(default)s)")
    flags = parser.parse_args()
    try:
        info = DatasetInfo.load(flags.records_dir)
        count = info.split("train").count
        info.split("val")
        if min(info.image_shape[:2]) < SIDE:
            raise RecordsError(f"images are {info.image_shape[:2]}, at least {SIDE} × {SIDE} expected")
    except RecordsError as error:
        print(f"examples.train_torch: {error}", file=sys.stderr)
        return 1
    model = train(flags, steps_per_epoch(count, flags.batch_size, flags.num_workers))
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), flags.output_dir / "unet.pt")
    return 0


def train(flags: argparse.Namespace, steps: int) -> UNet:
    """Trains a network with these flags and steps per epoch; prints a line per epoch."""
    torch.manual_seed(flags.seed)
    # One sequence of batches for all epochs, so that the workers start once and read ahead into the next epoch.
    records = Records(flags.records_dir, "train", flags.batch_size, flags.epochs, flags.seed)
    batches = iter(torch.utils.data.DataLoader(records, batch_size=None, num_workers=flags.num_workers))
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, flags.epochs * steps)
    begin = time.perf_counter()
    for epoch in range(flags.epochs):
        total = 0.0
        for images, masks in itertools.islice(batches, steps):
            images, masks = augment(images, masks)
            value = loss(model(images), masks)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        held_out = dice(model, flags.records_dir, "val", flags.batch_size)
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}, held-out Dice {held_out:.4f}, {seconds:.0f} s", flush=True)
    return model


if __name__ == "__main__":
    sys.exit(main())
