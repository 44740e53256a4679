"""The settings of one run."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Literal

from preprocess.geometry.grid import Grid
from preprocess.model import ContourKind, ImageHeader, Origin
from preprocess.output import splits


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run; they check themselves.

    Attributes:
        data_dir: folder or zip archive that holds ``dicoms``, ``contourfiles`` and ``link.csv``.
        output_dir: records directory to create.
        contours: which contours: inner (``i``) or outer (``o``).
        contour_origin: which point of the top-left pixel is (0, 0).
        split: see ``splits.HELP``.
        image_size: rows and columns of the common grid (see ``grid``), or None.
        pixel_spacing_mm: edge of its pixels, or None.
        exclude: CSV of pairs to leave out, or None.
        num_shards: per split, or None for about 128 MiB each.
        max_image_pixels: rows × columns allowed.
        strict: publish nothing when the audit has an error.
        overwrite: replace an output directory that an earlier run wrote.
        workers: processes on this machine.
        engine: ``local``, or ``beam`` for Apache Beam.
        beam_args: what Beam is given, as on its command line.

    Raises:
        ValueError: a setting is out of its range.
    """

    data_dir: pathlib.Path
    output_dir: pathlib.Path
    contours: ContourKind = "i"
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
            raise ValueError("beam_args is given, but the engine is not beam; add --engine=beam")
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
        """The pixels that an image gets; raises what :meth:`Grid.of` does."""
        return Grid.of(
            header.shape, header.pixel_spacing_mm, self.image_size, self.pixel_spacing_mm, self.max_image_pixels
        )

    def output_settings(self) -> dict[str, Any]:
        """The settings that shape the records, without the paths of this machine: what the manifest keeps.

        Those of the common grid are there where one was asked for.
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
