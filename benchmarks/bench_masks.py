"""Compares rasterizers on the contours of a data set: accuracy, against exact areas, and speed.

    python -m benchmarks.bench_masks --data_dir=final_data

Bias: area of the mask relative to the polygon's, mean and worst. Wrong: pixels per mask that break the rule, by which
a pixel is inside when more than half of it lies inside the polygon. Pixels with exactly half inside do not count.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import skimage.draw

from benchmarks.exact import pixel_areas
from preprocess.geometry import Polygon, masks
from preprocess.inputs import contours, sources
from preprocess.layouts import challenge

_SHAPE = (256, 256)
_ROUNDS = 5


def _pillow(polygon: Polygon) -> npt.NDArray[np.bool_]:
    image = PIL.Image.new("L", (_SHAPE[1], _SHAPE[0]), 0)
    PIL.ImageDraw.Draw(image).polygon([(x, y) for x, y in polygon], outline=0, fill=1)
    return np.asarray(image, np.bool_)


def _fill_rounded(polygon: Polygon) -> npt.NDArray[np.bool_]:
    image = np.zeros(_SHAPE, np.uint8)
    return np.asarray(cv2.fillPoly(image, [np.rint(polygon).astype(np.int32)], 1), np.bool_)


def _fill_shifted(polygon: Polygon) -> npt.NDArray[np.bool_]:
    image = np.zeros(_SHAPE, np.uint8)
    vertices = np.rint(polygon * (1 << 16)).astype(np.int32)
    return np.asarray(cv2.fillPoly(image, [vertices], 1, shift=16), np.bool_)


def _scikit_image(polygon: Polygon) -> npt.NDArray[np.bool_]:
    return np.asarray(skimage.draw.polygon2mask(_SHAPE, polygon[:, ::-1]))


def _ours(polygon: Polygon) -> npt.NDArray[np.bool_]:
    return masks.rasterize(polygon, _SHAPE)


_METHODS: dict[str, Callable[[Polygon], npt.NDArray[np.bool_]]] = {
    "Pillow polygon, outline=0": _pillow,
    "cv2.fillPoly, rounded": _fill_rounded,
    "cv2.fillPoly, shift=16": _fill_shifted,
    "scikit-image polygon2mask": _scikit_image,
    "preprocess.geometry.masks": _ours,
}


def _polygons(data_dir: pathlib.Path) -> list[Polygon]:
    source = sources.open_source(data_dir)
    polygons = []
    for study in challenge.discover(source)[0]:
        for paths in study.contours.values():
            for path in paths.values():
                with source.open(path) as file:
                    polygons.append(contours.read_contour(file))
    return polygons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir", required=True, type=pathlib.Path, help="folder or zip of studies, as for python -m preprocess"
    )
    polygons = _polygons(parser.parse_args().data_dir)
    areas = [pixel_areas(polygon, _SHAPE) for polygon in polygons]
    print(f"{len(polygons)} contours, inner and outer\n")
    print("| method | mean area bias | worst | wrong pixels per mask | masks/s |")
    print("|---|---|---|---|---|")
    for name, method in _METHODS.items():
        drawn = [method(polygon) for polygon in polygons]
        bias = np.array([mask.sum() / exact.sum() - 1 for mask, exact in zip(drawn, areas, strict=True)])
        wrong = [
            ((mask != (exact > 0.5)) & (np.abs(exact - 0.5) > 1e-9)).sum()
            for mask, exact in zip(drawn, areas, strict=True)
        ]
        begin = time.perf_counter()
        for _ in range(_ROUNDS):
            for polygon in polygons:
                method(polygon)
        rate = _ROUNDS * len(polygons) / (time.perf_counter() - begin)
        worst = bias[np.abs(bias).argmax()]
        print(f"| {name} | {bias.mean():+.1%} | {worst:+.1%} | {np.mean(wrong):.1f} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
