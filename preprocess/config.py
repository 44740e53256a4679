"""The settings of one run."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any, Literal

from preprocess.geometry.grid import Grid
from preprocess.inputs.sources import DataDir
from preprocess.model import ContourKind, Contours, ImageHeader, Origin
from preprocess.output import splits
from preprocess.urls import Place

Layout = Literal["challenge", "sunnybrook", "rtstruct"]
"""How the files of a data set are arranged: the modules of :mod:`preprocess.layouts`."""

EngineName = Literal["local", "beam", "dask"]
"""Where the work runs: the engines of :mod:`preprocess.engines`."""

_KIND: dict[str, ContourKind] = {"inner": "i", "outer": "o"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run, checked when they are created: the flags of the same names, which ``__main__`` explains.

    Attributes:
        data_dir: a folder or a zip archive, or several that hold one data set.
        output_dir: a directory, or a folder of a store.
        roi: the names of the ROIs of each kind of contour (see :attr:`rois`), for the layout rtstruct.
        contour_origin: None for the origin that the layout's contours have.
        image_size: rows and columns of the common grid (see ``grid``), or None.
        pixel_spacing_mm: edge length of its pixels, or None.
        num_shards: shards per split, or None for shards of about 128 MiB.
        file_timeout_s: how long a worker may take to read one file, decoding included.

    Raises:
        ValueError: a setting is out of its range.
    """

    data_dir: DataDir
    output_dir: Place
    layout: Layout | Literal["auto"] = "auto"
    roi: str = ""
    contours: Contours = "i"
    contour_origin: Origin | None = None
    split: str = "train"
    image_size: tuple[int, int] | None = None
    pixel_spacing_mm: float | None = None
    exclude: pathlib.Path | None = None
    num_shards: int | None = None
    max_image_pixels: int = 1 << 24
    strict: bool = False
    overwrite: bool = False
    workers: int = 1
    file_timeout_s: float = 60
    engine: EngineName = "local"
    beam_args: str = ""
    scheduler: str = ""

    def __post_init__(self) -> None:
        if self.num_shards is not None and not 1 <= self.num_shards <= 99_999:
            raise ValueError(f"num_shards is {self.num_shards}, 1 to 99999 expected")
        self._check_engine()
        if self.roi and self.layout not in ("auto", "rtstruct"):
            raise ValueError(f"roi is for the layout rtstruct, not for {self.layout}")
        _ = self.rois
        if self.contour_origin and self.layout in ("sunnybrook", "rtstruct"):
            raise ValueError(f"contour_origin is not for the layout {self.layout}, whose contours state their origin")
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

    def _check_engine(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, at least 1 expected")
        # A timer of the system cannot be set to more than a few years, and 0 switches it off.
        if not 0.001 <= self.file_timeout_s <= 1_000_000:
            raise ValueError(f"file_timeout_s is {self.file_timeout_s:g}, 0.001 to 1000000 expected")
        if self.beam_args and self.engine != "beam":
            raise ValueError("beam_args needs the engine beam; add --engine=beam")
        if self.scheduler and self.engine != "dask":
            raise ValueError("scheduler needs the engine dask; add --engine=dask")
        if self.engine == "dask" and not self.scheduler:
            raise ValueError(
                "the engine dask needs the address of a scheduler: pass --scheduler=tcp://HOST:8786, or use this "
                "machine's cores with --engine=local"
            )

    @property
    def origin(self) -> Origin:
        """The origin of contours in text files: the corner, unless the user says otherwise."""
        return self.contour_origin or "corner"

    @property
    def rois(self) -> dict[ContourKind, str]:
        """The pattern of ROI names of each kind of contour, from ``inner=PATTERN,outer=PATTERN``.

        Raises:
            ValueError: ``roi`` has another form.
        """
        patterns: dict[ContourKind, str] = {}
        for part in re.split(r",(?=\s*(?:inner|outer)\s*=)", self.roi) if self.roi else []:
            match = re.fullmatch(r"\s*(inner|outer)\s*=\s*(.*\S)\s*", part, re.DOTALL)
            if match is None or _KIND[match[1]] in patterns:
                raise ValueError(f"roi is {self.roi!r}, inner=NAME,outer=NAME or one of the two expected")
            patterns[_KIND[match[1]]] = match[2]
        return patterns

    def grid_of(self, header: ImageHeader) -> Grid:
        """The pixel grid of an image in the records; raises what :meth:`Grid.of` raises."""
        return Grid.of(
            header.shape, header.pixel_spacing_mm, self.image_size, self.pixel_spacing_mm, self.max_image_pixels
        )

    def output_settings(self) -> dict[str, Any]:
        """The settings that determine the records, as the manifest keeps them: no paths of this machine.

        ``roi``, ``image_size`` and ``pixel_spacing_mm`` are included only when they are set.
        """
        optional = {
            # Coordinates of structure sets are those of the patient.
            "contour_origin": None if self.layout == "rtstruct" else self.origin,
            "roi": self.roi or None,
            "image_size": self.image_size and [*self.image_size],
            "pixel_spacing_mm": self.pixel_spacing_mm,
        }
        return {
            "layout": self.layout,
            "contours": self.contours,
            "split": self.split,
            "num_shards": self.num_shards,
            "max_image_pixels": self.max_image_pixels,
            **{name: value for name, value in optional.items() if value is not None},
        }
