"""Trains a small U-Net with PyTorch; several processes read the batches.

    python -m preprocess --data_dir=final_data --output_dir=records
    python -m examples.train_torch --records_dir=records --held_out SCD0000101 --output_dir=unet-torch

The held-out studies are chosen when the records are read. Their Dice is printed after each epoch, study by study.
TensorFlow is not needed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import sys
import time

import numpy as np
import torch
import torch.utils.data
from torch import nn
from torch.nn import functional

from pipeline import Records, RecordsError
from pipeline.torch import BatchDataset

SIDE = 128
"""Rows and columns around the image's middle that the network sees; the rest counts as background."""

_FILTERS = (16, 32, 64, 128)
_LEARNING_RATE = 2e-3


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
def dice(model: UNet, records: Records, batch_size: int) -> dict[str, float]:
    """Dice of each study, pooled over all pixels of its images, including those outside the middle."""
    model.eval()
    studies = np.array(records.studies)
    of_record = np.searchsorted(studies, records.table["study_id"])
    shared, pixels = np.zeros((2, len(studies)), np.int64)
    for images, masks, positions in BatchDataset(
        records, batch_size=batch_size, shuffle=False, standardize=True, positions=True
    ):
        images, masks = images.movedim(-1, 1), masks.movedim(-1, 1)
        top, left = ((size - SIDE) // 2 for size in images.shape[2:])
        middle = np.s_[..., top : top + SIDE, left : left + SIDE]
        found = model(images[middle]) > 0
        study = of_record[positions.numpy()]
        np.add.at(shared, study, (found & masks[middle]).sum((1, 2, 3)).numpy())
        np.add.at(pixels, study, (found.sum((1, 2, 3)) + masks.sum((1, 2, 3))).numpy())
    model.train()
    return dict(zip(studies.tolist(), (2 * shared / pixels).tolist(), strict=True))


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_torch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records_dir", type=pathlib.Path, required=True, help="records, all splits of which are used")
    parser.add_argument("--held_out", nargs="+", required=True, metavar="STUDY", help="studies not to train on")
    parser.add_argument("--output_dir", type=pathlib.Path, required=True, help="folder for the weights, unet.pt")
    parser.add_argument("--epochs", type=int, default=80, help="number of epochs (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step (%(default)s)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read batches (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (%(default)s)")
    flags = parser.parse_args()
    try:
        records = Records(flags.records_dir)
        if unknown := set(flags.held_out) - set(records.studies):
            raise RecordsError(f"no study {', '.join(sorted(unknown))}; there are {', '.join(records.studies)}")
        if min(records.info.image_shape[:2]) < SIDE:
            raise RecordsError(f"images are {records.info.image_shape[:2]}, at least {SIDE} × {SIDE} expected")
        held_out = np.isin(records.table["study_id"], flags.held_out)
        model = train(records.where(~held_out), records.where(held_out), flags)
    except RecordsError as error:
        print(f"examples.train_torch: {error}", file=sys.stderr)
        return 1
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), flags.output_dir / "unet.pt")
    return 0


def train(records: Records, held_out: Records, flags: argparse.Namespace) -> UNet:
    """Trains a network with these flags; prints a line per epoch."""
    torch.manual_seed(flags.seed)
    data = BatchDataset(records, batch_size=flags.batch_size, seed=flags.seed, standardize=True)
    batches = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=flags.num_workers, persistent_workers=flags.num_workers > 0
    )
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, flags.epochs * len(data))
    begin = time.perf_counter()
    for epoch in range(flags.epochs):
        total = 0.0
        for images, masks in batches:
            images, masks = augment(images.movedim(-1, 1), masks.movedim(-1, 1))
            value = loss(model(images), masks)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        scores = ", ".join(f"{study} {score:.4f}" for study, score in dice(model, held_out, flags.batch_size).items())
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: loss {total / len(data):.4f}, held-out Dice {scores}, {seconds:.0f} s", flush=True)
    return model


if __name__ == "__main__":
    sys.exit(main())
