"""One study, read and paired: what it holds and what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from preprocess import contours, dicom, masks, pairing
from preprocess.config import Config
from preprocess.errors import Finding, InputError
from preprocess.sources import Source
from preprocess.study import KINDS, ContourKind, ImageHeader, Origin, Pair, Place, Polygon, Study


@dataclasses.dataclass(frozen=True)
class Examined:
    """A study as its files have it.

    Attributes:
        headers: of the images that are what folder and file name say, by number.
        places: slice and phase of each of them.
        pairs: by kind of contour, by number.
        digests: of the pixels of each image that has a contour, by path.
        findings: everything missing, odd or wrong.
    """

    study: Study
    headers: Mapping[int, ImageHeader]
    places: Mapping[int, Place]
    pairs: Mapping[ContourKind, Sequence[Pair]]
    digests: Mapping[str, bytes]
    findings: Sequence[Finding]


def examine(source: Source, study: Study, config: Config, progress: Callable[[], object]) -> Examined:
    """Reads every header and contour of a study, and no pixels, and pairs them.

    Args:
        source: where its files are.
        study: the study.
        config: settings.
        progress: called after each image.
    """
    findings: list[Finding] = []
    labeled = study.contours["i"].keys() | study.contours["o"].keys()
    headers: dict[int, ImageHeader] = {}
    digests: dict[str, bytes] = {}
    for number, path in study.images.items():
        with _found(findings, "image", study.study_id, number):
            with _opened(source, path, "unreadable_image") as file:
                header = dicom.read_header(file, path, config.max_image_pixels)
            if number in labeled:
                with _opened(source, path, "unreadable_image") as file:
                    digests[path] = dicom.read_digest(file, path)
            headers[number] = header
        progress()
    confirmed, mismatches = pairing.confirm(study, headers)
    findings += mismatches
    places = pairing.locate(confirmed)
    pairs: dict[ContourKind, list[Pair]] = {}
    for kind in KINDS:
        polygons: dict[int, Polygon] = {}
        for number, path in study.contours[kind].items():
            with (
                _found(findings, "contour", study.study_id, number),
                _opened(source, path, "unreadable_contour") as file,
            ):
                polygons[number] = contours.read_contour(file, path)
        pairs[kind] = pairing.pair(study, kind, confirmed, places, polygons)
        findings += pairing.left_over(study, kind, headers, polygons)
    findings += pairing.unlabeled(study, config.contours)
    return Examined(study, confirmed, places, pairs, digests, findings)


def read_pair(
    source: Source, pair: Pair, origin: Origin, max_image_pixels: int
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Modality values ``(H, W)`` and mask ``(H, W)`` of a pair.

    Raises:
        InputError: either cannot be made.
    """
    mask = masks.rasterize(pair.polygon, pair.header.shape, pair.contour_path, origin)
    with _opened(source, pair.image_path, "unreadable_image") as file:
        pixels = dicom.read_pixels(file, pair.image_path, max_image_pixels)
    if pixels.shape != pair.header.shape:
        raise InputError(pair.image_path, "its pixels are not Rows × Columns", "unreadable_image")
    return pixels, mask


def left_out(pair: Pair, error: InputError) -> list[Finding]:
    """What is found of a pair of which one file cannot be used."""
    if error.path == pair.contour_path:
        return [Finding.of(error, "contour", pair.study_id, pair.number)]
    return [
        Finding.of(error, "image", pair.study_id, pair.number),
        pairing.without_image(pair.study_id, pair.number, pair.image_path, pair.contour_path),
    ]


@contextlib.contextmanager
def _found(findings: list[Finding], kind: str, study_id: str, number: int) -> Iterator[None]:
    """Makes an error about one file a finding, and goes on."""
    try:
        yield
    except InputError as error:
        findings.append(Finding.of(error, kind, study_id, number))


@contextlib.contextmanager
def _opened(source: Source, path: str, reason: str) -> Iterator[BinaryIO]:
    """Opens a file; what the system says against reading it is an error about that file."""
    try:
        with source.open(path) as file:
            yield file
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror or error}", reason) from error
