"""Trees of input and output files."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator

import pydicom

from preprocess import phantom


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    """Every file below a directory, by relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def zipped(tree: pathlib.Path, path: pathlib.Path, *more: tuple[zipfile.ZipInfo | str, bytes]) -> pathlib.Path:
    """Writes a tree as an archive, followed by more entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents(tree).items():
            archive.writestr(name, content)
        for entry, content in more:
            archive.writestr(entry, content)
    return path


def listing(order: Callable[[list[os.DirEntry[str]]], None]) -> Callable[..., object]:
    """``os.scandir``, with the entries put in another order."""
    scandir = os.scandir

    @contextlib.contextmanager
    def ordered(*arguments: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(*arguments) as found:
            entries = list(found)
        order(entries)
        yield entries

    return ordered


def image(tree: pathlib.Path, number: int) -> pathlib.Path:
    """An image of the first study."""
    return tree / "dicoms" / "PHANTOM001" / f"{number}.dcm"


def contour(tree: pathlib.Path, number: int) -> pathlib.Path:
    """An i-contour of the first study."""
    return tree / "contourfiles" / "PH-1" / "i-contours" / phantom.contour_name(number, "i")


def edited(path: pathlib.Path, **elements: object) -> None:
    """Sets elements of a DICOM file."""
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
