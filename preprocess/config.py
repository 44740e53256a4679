"""The settings of one run."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Literal

from preprocess.geometry.grid import Grid
from preprocess.model import Contours, ImageHeader, Origin
from preprocess.output import splits


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run, checked when they are created: the flags of the same names, which ``__main__`` explains.

    Attributes:
        image_size: rows and columns of the common grid (see ``grid``), or None.
        pixel_spacing_mm: edge length of its pixels, or None.
        num_shards: shards per split, or None for shards of about 128 MiB.

    Raises:
        ValueError: a setting is out of its range.
    """

    data_dir: pathlib.Path
    output_dir: pathlib.Path
    contours: Contours = "i"
    contour_origin: Origin = "corner"
    split: str = "train"
    image_size: tuple[int, int] | None = None
    pixel_spacing_mm: float | None = None
    exclude: pathlib.Path | None = None
    num_shards: int | None = None
    max_image_pixels: int = 1 << 24
    strict: bool = False
    overwrite: bool = False
    workers: int = 1
    engine: Literal["local", "beam"] = "local"
    beam_args: str = ""

    def __post_init__(self) -> None:
        if self.num_shards is not None and not 1 <= self.num_shards <= 99_999:
            raise ValueError(f"num_shards is {self.num_shards}, 1 to 99999 expected")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, at least 1 expected")
        if self.beam_args and self.engine != "beam":
            raise ValueError("beam_args needs the engine beam; add --engine=beam")
        if self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels is {self.max_image_pixels}, at least 1 expected")
        if self.image_size is not None:
            rows, columns = self.image_size
            if rows < 1 or columns < 1 or rows * columns > self.max_image_pixels:
                raise ValueError(
                    f"image_size is {rows}x{columns}, 1x1 to {self.max_image_pixels} pixels (max_image_pixels) expected"
                )
        if self.pixel_spacing_mm is not None and not 0.001 <= self.pixel_spacing_mm <= 1000:
            raise ValueError(f"pixel_spacing_mm is {self.pixel_spacing_mm:g}, 0.001 to 1000 expected")
        splits.check(self.split)

    def grid_of(self, header: ImageHeader) -> Grid:
        """The pixel grid of an image in the records; raises what :meth:`Grid.of` raises."""
        return Grid.of(
            header.shape, header.pixel_spacing_mm, self.image_size, self.pixel_spacing_mm, self.max_image_pixels
        )

    def output_settings(self) -> dict[str, Any]:
        """The settings that determine the records, as the manifest keeps them: no paths of this machine.

        ``image_size`` and ``pixel_spacing_mm`` are included only when they are set.
        """
        grid = {"image_size": self.image_size and [*self.image_size], "pixel_spacing_mm": self.pixel_spacing_mm}
        return {
            "contours": self.contours,
            "contour_origin": self.contour_origin,
            "split": self.split,
            "num_shards": self.num_shards,
            "max_image_pixels": self.max_image_pixels,
            **{name: value for name, value in grid.items() if value is not None},
        }
