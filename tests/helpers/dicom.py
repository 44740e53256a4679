"""Sample files of pydicom, changed."""

import io
import warnings
from collections.abc import Callable

import pydicom
from pydicom import data
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

LIMIT = 1 << 24
"""Pixels that an image may have."""


def get_testdata_file(name: str) -> str:
    """The path of a sample file of pydicom."""
    path = data.get_testdata_file(name)
    assert isinstance(path, str)
    return path


def changed(change: Callable[[pydicom.FileDataset], object], name: str = "MR_small.dcm") -> io.BytesIO:
    """A sample file of pydicom after a change."""
    dataset = pydicom.dcmread(get_testdata_file(name))
    change(dataset)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer)
    buffer.seek(0)
    return buffer


def setting(**elements: object) -> Callable[[pydicom.FileDataset], object]:
    def change(dataset: pydicom.FileDataset) -> None:
        with pydicom.config.disable_value_validation():
            for keyword, value in elements.items():
                if isinstance(value, bytes):
                    # Raw, as read from a file: pydicom does not accept text that is not a number.
                    tag = pydicom.tag.Tag(keyword)
                    dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
                else:
                    setattr(dataset, keyword, value)

    return change
