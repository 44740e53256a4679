"""Images and RT Structure Sets, written by pydicom from the formulas of the standard."""

import io
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage

from preprocess.config import Config
from preprocess.engines.worker import Work
from preprocess.inputs.sources import Listing

# Axes of no scanner, at no round angle: rows and columns each have a part of x, y and z.
_TURN, _TILT = math.radians(31), math.radians(-17)
ROW = np.array([math.cos(_TURN), math.sin(_TURN), 0.0])
COLUMN = np.array([-math.sin(_TURN) * math.cos(_TILT), math.cos(_TURN) * math.cos(_TILT), math.sin(_TILT)])
NORMAL = np.cross(ROW, COLUMN)
POSITION = np.array([-61.5, 23.25, 104.125])

SHAPE = 60, 80
"""Rows and columns."""

SPACING = 1.75, 1.25
"""Between rows and between columns, in mm."""

THICKNESS = 6.0

Ring = Sequence[tuple[float, float]]
"""x and y of each vertex, in pixels; (0, 0) is the outer corner of the first pixel."""

SQUARE = [(20.0, 15.0), (50.0, 15.0), (50.0, 45.0), (20.0, 45.0)]


class Here:
    """An engine that works in this process."""

    def __init__(self, source: Listing, config: Config) -> None:
        self._source, self._config = source, config

    def map(self, work: Work[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield work(self._source, self._config, item)


def image(
    instance: str, series: str = "1.2.1", study: str = "1.2", position: np.ndarray = POSITION, **elements: Any
) -> pydicom.Dataset:
    """An MR image of noise, which depends on its SOP Instance UID."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = instance, series, study
    dataset.PatientID = "PATIENT"
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.10f}" for value in (*ROW, *COLUMN)]
    dataset.PixelSpacing = list(SPACING)
    dataset.SliceThickness = THICKNESS
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = SHAPE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    seed = [ord(letter) for letter in instance]
    dataset.PixelData = np.random.default_rng(seed).integers(0, 4096, SHAPE, np.uint16).astype("<u2").tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def in_patient(ring: Ring, position: np.ndarray = POSITION, off_mm: float = 0.0) -> list[str]:
    """Contour Data of a ring on an image (PS3.3, equation C.7.6.2.1-1).

    ``P = X Δi i + Y Δj j + S``, where X are the direction cosines of a row, Δi is the distance between columns, i the
    column index, counted from the center of the first pixel, and S its position.
    """
    between_rows, between_columns = SPACING
    found = []
    for x, y in ring:
        i, j = x - 0.5, y - 0.5
        point = ROW * between_columns * i + COLUMN * between_rows * j + position + NORMAL * off_mm
        found += [f"{value:.8g}" for value in point]
    return found


def outline(instance: str | None, data: Sequence[str], kind: str = "CLOSED_PLANAR") -> pydicom.Dataset:
    """An item of Contour Sequence; without a UID it does not say on which image it is drawn."""
    item = pydicom.Dataset()
    if instance is not None:
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = MRImageStorage, UID(instance)
        item.ContourImageSequence = [reference]
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(data) // 3
    item.ContourData = list(data)
    return item


def ring(instance: str, points: Ring = SQUARE, kind: str = "CLOSED_PLANAR", **where: Any) -> pydicom.Dataset:
    """An item of Contour Sequence: a ring on an image."""
    return outline(instance, in_patient(points, **where), kind)


def structure_set(**rois: Sequence[pydicom.Dataset]) -> pydicom.Dataset:
    """A structure set: the contours of each ROI, by its name with ``_`` for spaces. ROIs are numbered from 1."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, "1.2.99.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.99"
    dataset.Modality = "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, of_roi = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name.replace("_", " ")
        of_roi.ReferencedROINumber = number
        if contours:
            of_roi.ContourSequence = list(contours)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(of_roi)
    return dataset


def saved(dataset: pydicom.Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write(path: pathlib.Path, dataset: pydicom.Dataset) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(dataset))
    return path
