"""Draws the README's picture: an image of the phantom, its contour and its mask.

python -m examples.draw_pair phantom docs/pair.png
"""

from __future__ import annotations

import pathlib
import sys

import cv2
import numpy as np
import numpy.typing as npt

from preprocess import phantom
from preprocess.dicom import reader
from preprocess.geometry import Polygon, masks
from preprocess.inputs import contours

_STUDY, _CONTOURS, _NUMBER = "PHANTOM001", "PH-1", 41
_SCALE = 5
_HALF = 48
_YELLOW = (0, 200, 255)
_GREEN = (90, 170, 60)


def draw(data_dir: pathlib.Path) -> npt.NDArray[np.uint8]:
    """The picture, BGR uint8 ``(H, W, 3)``: image with contour; mask over the image with contour."""
    image_path = data_dir / "dicoms" / _STUDY / f"{_NUMBER}.dcm"
    contour_path = data_dir / "contourfiles" / _CONTOURS / "i-contours" / phantom.contour_name(_NUMBER, "i")
    with image_path.open("rb") as file:
        pixels = reader.read_pixels(file, 1 << 24)
    with contour_path.open("rb") as file:
        polygon = contours.read_contour(file)
    mask = masks.rasterize(polygon, (pixels.shape[0], pixels.shape[1]))

    left, top = np.rint(polygon.mean(axis=0)).astype(int) - _HALF
    window = np.s_[top : top + 2 * _HALF, left : left + 2 * _HALF]
    gray = np.clip(pixels[window].astype(float) / 480 * 255, 0, 255).astype(np.uint8)
    plain = np.repeat(gray[..., None], 3, axis=-1)
    tinted = plain.copy()
    tinted[mask[window]] = 0.55 * tinted[mask[window]] + 0.45 * np.array(_GREEN)
    panels = [_with_contour(panel, polygon - (left, top)) for panel in (plain, tinted)]
    return np.hstack([panels[0], np.full((panels[0].shape[0], 12, 3), 255, np.uint8), panels[1]])


def _with_contour(panel: npt.NDArray[np.uint8], polygon: Polygon) -> npt.NDArray[np.uint8]:
    large = cv2.resize(panel, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_NEAREST)
    # From corner coordinates to OpenCV's pixel centers, with four fractional bits.
    vertices = np.rint((polygon * _SCALE - 0.5) * 16).astype(np.int32)
    cv2.polylines(large, [vertices], True, _YELLOW, 2, cv2.LINE_AA, shift=4)
    return np.asarray(large, np.uint8)


if __name__ == "__main__":
    data_dir, output = sys.argv[1:]
    if not cv2.imwrite(output, draw(pathlib.Path(data_dir))):
        sys.exit(f"{output}: cannot be written")
    print(f"{output} written")
