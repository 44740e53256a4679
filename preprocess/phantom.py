"""The built-in example: three small studies of a beating left ventricle, drawn from formulas and a seed.

    python -m preprocess.phantom --output_dir=phantom [--layout=challenge]

It has the layout of real data and one example of each of its flaws: a row of ``link.csv`` whose study is missing (only
in the layout challenge), a contour without an image, an AppleDouble file beside an image, images without a contour, and
a contour beside its heart. Every layout has the same images and contours.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage, generate_uid

from pipeline import __version__
from preprocess import terminal
from preprocess.findings import FatalInputError
from preprocess.geometry import Polygon
from preprocess.output import publication

STUDIES = ("PHANTOM001", "PHANTOM002", "PHANTOM003")
SLICES = 6
PHASES = 20
SIZE = 256
"""Rows and columns."""
END_SYSTOLE = 8
"""Phase with the smallest cavity; end-diastole, with the largest, is phase 0."""
_CONTOURED = {0: "io", END_SYSTOLE: "i"}
"""The kinds of contour that a phase has."""

MOVED = "PHANTOM001", 2 * PHASES + END_SYSTOLE + 1
"""Study and number of the contour that does not lie on its heart."""
_MOVED_PX = 7.0, 4.5

_MISSING = SLICES * PHASES + 1
"""Number of the image that the first study lacks, and that has a contour."""

_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "

ROI_NAMES = {"i": "LV endo", "o": "LV epi"}
"""Names of the ROIs in RT Structure Sets."""

_SLICE_SPACING_MM = 8.0
_NOISE = 12.0
_BACKGROUND, _MUSCLE, _BLOOD = 60.0, 110.0, 420.0

# Direction cosines of row and column. Short-axis planes are oblique to the scanner's axes.
_ROW = (0.8, 0.0, -0.6)
_COLUMN = (0.36, 0.8, 0.48)

# Elements of type 2: required, but may be empty.
_EMPTY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "Manufacturer",
    "PositionReferenceIndicator",
)


class _Drawn(NamedTuple):
    """One image of a study, and the contours drawn on it.

    Attributes:
        number: the Instance Number.
        dataset: the image.
        contours: for each kind, float64 ``(N, 2)``, columns x and y in pixels from the outer corner.
    """

    number: int
    dataset: pydicom.Dataset
    contours: Mapping[str, Polygon]


def write_phantom(output_dir: pathlib.Path, seed: int = 0, layout: str = "challenge") -> None:
    """Writes the three studies below ``output_dir``; a seed always gives the same bytes.

    Args:
        output_dir: the folder.
        seed: of the shapes and the noise.
        layout: how the files are arranged, a key of ``LAYOUTS``.

    Raises:
        FatalInputError: ``output_dir`` already contains one of the files, or cannot be written.
    """
    names, write = LAYOUTS[layout]
    for name in names:
        if os.path.lexists(output_dir / name):
            raise FatalInputError(str(output_dir), f"already contains {name}; choose another --output_dir")
    with publication.writing(output_dir):
        for index, study_id in enumerate(STUDIES):
            write(output_dir, study_id, f"PH-{index + 1}", _draw(study_id, np.random.default_rng([seed, index])))


def contour_name(number: int, kind: str) -> str:
    """The file name of a contour of one kind on an image."""
    return f"IM-0001-{number:04d}-{kind}contour-manual.txt"


def _draw(study_id: str, rng: np.random.Generator) -> Iterator[_Drawn]:
    """The images of one study, by number, and their contours."""
    heart = Heart(rng)
    for slice_index in range(SLICES):
        for phase in range(PHASES):
            number = slice_index * PHASES + phase + 1
            pixels = heart.image(slice_index, phase, rng)
            moved = _MOVED_PX if (study_id, number) == MOVED else (0.0, 0.0)
            contours = {kind: heart.contour(kind, slice_index, phase) + moved for kind in _CONTOURED.get(phase, "")}
            yield _Drawn(number, _dataset(study_id, number, slice_index, phase, heart.spacing_mm, pixels), contours)


def _write_challenge(output_dir: pathlib.Path, study_id: str, contour_id: str, drawn: Iterator[_Drawn]) -> None:
    """Writes a study below ``dicoms`` and ``contourfiles``; the first study also brings ``link.csv`` and the flaws."""
    images = output_dir / "dicoms" / study_id
    contours = output_dir / "contourfiles" / contour_id
    images.mkdir(parents=True)
    for kind in "io":
        (contours / f"{kind}-contours").mkdir(parents=True)
    for number, dataset, polygons in drawn:
        dataset.save_as(images / f"{number}.dcm", enforce_file_format=True)
        for kind, polygon in polygons.items():
            text = "".join(f"{x:.2f} {y:.2f}\n" for x, y in polygon)
            (contours / f"{kind}-contours" / contour_name(number, kind)).write_text(text, "ascii")
            if (study_id, number, kind) == (STUDIES[0], 1, "i"):
                (contours / "i-contours" / contour_name(_MISSING, "i")).write_text(text, "ascii")
    if study_id == STUDIES[0]:
        rows = [f"{name},PH-{row}\n" for row, name in enumerate((*STUDIES, "PHANTOM004"), start=1)]
        (output_dir / "link.csv").write_text("".join(["patient_id,original_id\n", *rows]), "ascii")
        (images / "._1.dcm").write_bytes(_APPLE_DOUBLE)


def _write_rtstruct(output_dir: pathlib.Path, study_id: str, contour_id: str, drawn: Iterator[_Drawn]) -> None:
    """Writes a study as a folder of images and an RT Structure Set."""
    images = output_dir / study_id
    images.mkdir(parents=True)
    outlines: dict[str, list[pydicom.Dataset]] = {"i": [], "o": []}
    for number, dataset, polygons in drawn:
        dataset.save_as(images / f"IM-{number:04d}.dcm", enforce_file_format=True)
        for kind, polygon in polygons.items():
            outlines[kind].append(_planar_contour(dataset, polygon, dataset.SOPInstanceUID))
            if (study_id, number, kind) == (STUDIES[0], 1, "i"):
                outlines[kind].append(_planar_contour(dataset, polygon, _image_uid(study_id, _MISSING)))
    structures = _structure_set(dataset, contour_id, outlines)
    structures.save_as(images / f"RS-{contour_id}.dcm", enforce_file_format=True)
    if study_id == STUDIES[0]:
        (images / "._IM-0001.dcm").write_bytes(_APPLE_DOUBLE)


SUNNYBROOK = {
    "PHANTOM001": ("SCD0000101", "SC-HF-I-01"),
    "PHANTOM002": ("SCD0001301", "SC-HF-NI-03"),
    "PHANTOM003": ("SCD0003701", "SC-N-02"),
}
"""The layout sunnybrook reads only studies with the names of its patients: patient id and original name."""


def _write_sunnybrook(output_dir: pathlib.Path, study_id: str, contour_id: str, drawn: Iterator[_Drawn]) -> None:
    """Writes a study as the Sunnybrook Cardiac Data is distributed.

    Beside the short-axis series lie a long-axis series and contours of papillary muscles, neither of which is used.
    """
    patient_id, original = SUNNYBROOK[study_id]
    part = f"SCD_IMAGES_{STUDIES.index(study_id) + 1:02d}"
    short_axis, long_axis = (output_dir / part / patient_id / name for name in ("CINESAX_300", "CINELAX_400"))
    contours = output_dir / "SCD_ManualContours" / original / "contours-manual" / "IRCCI-expert"
    for folder in (short_axis, long_axis, contours):
        folder.mkdir(parents=True)
    for number, dataset, polygons in drawn:
        dataset.PatientID = patient_id
        dataset.SeriesDescription = "CINESAX"
        dataset.save_as(short_axis / f"IM-0003-{number:04d}.dcm", enforce_file_format=True)
        for kind, polygon in polygons.items():
            _write_text_contour(contours / contour_name(number, kind), polygon)
            if kind == "i":
                center = polygon.mean(axis=0)
                _write_text_contour(contours / contour_name(number, "p1"), center + (polygon - center + (20, 30)) / 5)
        if number <= PHASES:
            dataset.SeriesDescription, dataset.SeriesNumber = "CINELAX", 4
            dataset.ImageOrientationPatient = [*_ROW, *(round(float(one), 4) for one in np.cross(_ROW, _COLUMN))]
            dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study_id, "CINELAX"])
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[study_id, "CINELAX", str(number)])
            dataset.PixelData = dataset.pixel_array.T.tobytes()
            dataset.save_as(long_axis / f"IM-0004-{number:04d}.dcm", enforce_file_format=True)
    if study_id == STUDIES[0]:
        rows = [f"{patient},{name.replace('-0', '-')},,,\n" for patient, name in SUNNYBROOK.values()]
        table = "".join(["PatientID,OriginalID,Gender,Age,Pathology\n", *rows])
        (output_dir / "scd_patientdata.csv").write_text(table, "ascii")


def _write_text_contour(path: pathlib.Path, polygon: Polygon) -> None:
    path.write_text("".join(f"{x:.2f} {y:.2f}\n" for x, y in polygon), "ascii")


LAYOUTS: Mapping[str, tuple[tuple[str, ...], Callable[[pathlib.Path, str, str, Iterator[_Drawn]], None]]] = {
    "challenge": (("dicoms", "contourfiles", "link.csv"), _write_challenge),
    "sunnybrook": (
        ("SCD_IMAGES_01", "SCD_IMAGES_02", "SCD_IMAGES_03", "SCD_ManualContours", "scd_patientdata.csv"),
        _write_sunnybrook,
    ),
    "rtstruct": (STUDIES, _write_rtstruct),
}
"""For each layout the files and folders that it creates, and what writes one study: its id, the id of its contours, and
its images."""


class Heart:
    """The shape of one heart. Lengths are in pixels; (0, 0) is the outer corner of the top-left pixel."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.spacing_mm = float(rng.choice([1.25, 1.3671875, 1.5]))
        self._center = rng.uniform(118, 138, 2)
        self._drift = rng.uniform(-1.5, 1.5, 2)
        self._radius = rng.uniform(20, 25)
        self._thickness = rng.uniform(7, 9)
        self._ejection = rng.uniform(0.22, 0.34)
        self._lobes = rng.uniform(0.01, 0.05, 3), rng.uniform(0, 2 * math.pi, 3)

    def contour(self, kind: str, slice_index: int, phase: int) -> Polygon:
        """The contour that a reader would draw, with vertices on half pixels: float64 ``(N, 2)``, columns x and y."""
        angles = np.linspace(0, 2 * math.pi, 240, endpoint=False)
        radii = self._radii(kind, slice_index, phase, angles)
        points = self._middle(slice_index) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = np.rint(points * 2) / 2
        repeated = (points == np.roll(points, 1, axis=0)).all(axis=1)
        return np.asarray(points[~repeated])

    def image(self, slice_index: int, phase: int, rng: np.random.Generator) -> npt.NDArray[np.int16]:
        """``(SIZE, SIZE)``: bright blood, dark muscle, the right ventricle beside the left, and noise."""
        # A pixel has the value at its center, half a pixel from its corner.
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        dx, dy = x - self._middle(slice_index)[0], y - self._middle(slice_index)[1]
        distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        outer = self._radii("o", slice_index, phase, angle)
        body = ((x - SIZE / 2) / 105) ** 2 + ((y - SIZE / 2) / 80) ** 2 < 1
        values = np.where(body, _BACKGROUND, 0.0)
        # The right ventricle is a crescent: an ellipse that the left ventricle covers in part.
        right = ((dx + 1.35 * outer) / (0.95 * outer)) ** 2 + (dy / (1.25 * outer)) ** 2 < 1
        values[right] = _BLOOD * 0.9
        values[distance < outer + 2] = _MUSCLE
        # One pixel of partial volume at the inner wall.
        inside = np.clip(self._radii("i", slice_index, phase, angle) - distance + 0.5, 0, 1)
        values += (_BLOOD - values) * inside
        values += rng.normal(0, _NOISE, values.shape)
        return np.asarray(np.rint(np.clip(values, 0, 4095)), np.int16)

    def _middle(self, slice_index: int) -> npt.NDArray[np.float64]:
        return np.asarray(self._center + self._drift * slice_index)

    def _radii(
        self, kind: str, slice_index: int, phase: int, angles: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """The distance of the inner or outer wall from the center, in each direction."""
        taper = math.sqrt(1 - (slice_index / (SLICES + 1)) ** 2)
        beat = math.sin(math.pi * min(phase / END_SYSTOLE, (PHASES - phase) / (PHASES - END_SYSTOLE)) / 2) ** 2
        base = self._radius * taper
        inner = base * (1 - self._ejection * beat)
        # The area of muscle in the slice stays constant while the cavity shrinks.
        mean = inner if kind == "i" else math.sqrt(inner**2 + (base + self._thickness) ** 2 - base**2)
        shape = sum(
            size * np.cos((n + 2) * angles + turn) for n, (size, turn) in enumerate(zip(*self._lobes, strict=True))
        )
        return np.asarray(mean * (1 + shape))


def _dataset(
    study_id: str, number: int, slice_index: int, phase: int, spacing_mm: float, pixels: npt.NDArray[np.int16]
) -> pydicom.Dataset:
    """A DICOM data set of the MR Image Storage class (PS3.3 A.4)."""
    normal = np.cross(_ROW, _COLUMN)
    position = np.array([-120.0, -90.0, 60.0]) - slice_index * _SLICE_SPACING_MM * normal
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = _image_uid(study_id, number)
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[study_id, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study_id, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[study_id, "frame"])
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.Modality = "MR"
    dataset.PatientID = study_id
    dataset.InstanceNumber = number
    dataset.SeriesNumber = 1
    for keyword in _EMPTY:
        setattr(dataset, keyword, "")
    dataset.EchoTime = dataset.EchoTrainLength = dataset.RepetitionTime = None
    dataset.ScanOptions = "CG"
    dataset.BodyPartExamined = "HEART"
    dataset.PatientPosition = "HFS"
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "SS"
    dataset.MRAcquisitionType = "2D"
    dataset.SliceThickness = _SLICE_SPACING_MM
    dataset.TriggerTime = 45 * phase
    dataset.NominalInterval = 45 * PHASES
    dataset.ImagePositionPatient = [round(float(value), 4) for value in position]
    dataset.ImageOrientationPatient = [*_ROW, *_COLUMN]
    dataset.PixelSpacing = [spacing_mm, spacing_mm]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = pixels.astype("<i2").tobytes()
    return dataset


def _image_uid(study_id: str, number: int) -> UID:
    return generate_uid(entropy_srcs=[study_id, str(number)])


def _planar_contour(image: pydicom.Dataset, polygon: Polygon, referenced: UID) -> pydicom.Dataset:
    """An item of Contour Sequence (PS3.3 C.8.8.6): a polygon on an image, in patient coordinates."""
    row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = image.PixelSpacing
    # Image Position is the center of the first pixel (PS3.3 C.7.6.2.1.1), half a pixel from its corner.
    x, y = (polygon - 0.5).T
    points = (
        np.array(image.ImagePositionPatient, float)
        + x[:, None] * (float(between_columns) * row)
        + y[:, None] * (float(between_rows) * column)
    )
    item = pydicom.Dataset()
    item.ContourImageSequence = [_reference(image.SOPClassUID, referenced)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item.ContourData = [f"{value:.4f}" for value in points.ravel()]
    return item


def _structure_set(
    image: pydicom.Dataset, contour_id: str, outlines: Mapping[str, list[pydicom.Dataset]]
) -> pydicom.Dataset:
    """A DICOM data set of the RT Structure Set Storage class (PS3.3 A.19), for the study of an image."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[contour_id, "structures"])
    dataset.StudyInstanceUID = image.StudyInstanceUID
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[contour_id, "series"])
    dataset.Modality = "RTSTRUCT"
    dataset.PatientID = image.PatientID
    dataset.SeriesNumber = 2
    for keyword in _EMPTY:
        setattr(dataset, keyword, "")
    dataset.StructureSetLabel = "LV"
    dataset.StructureSetDate = dataset.StructureSetTime = ""
    references = [item.ContourImageSequence[0] for items in outlines.values() for item in items]
    series = pydicom.Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = [
        _reference(UID(image.SOPClassUID), uid)
        for uid in dict.fromkeys(reference.ReferencedSOPInstanceUID for reference in references)
    ]
    study = _reference(UID("1.2.840.10008.3.1.2.3.1"), image.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    frame = pydicom.Dataset()
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = Sequence()
    dataset.ROIContourSequence = Sequence()
    dataset.RTROIObservationsSequence = Sequence()
    for number, (kind, items) in enumerate(outlines.items(), start=1):
        roi = pydicom.Dataset()
        roi.ROINumber = number
        roi.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
        roi.ROIName = ROI_NAMES[kind]
        roi.ROIGenerationAlgorithm = "MANUAL"
        dataset.StructureSetROISequence.append(roi)
        contours = pydicom.Dataset()
        contours.ROIDisplayColor = [255, 0, 0] if kind == "i" else [0, 255, 0]
        contours.ContourSequence = items
        contours.ReferencedROINumber = number
        dataset.ROIContourSequence.append(contours)
        observation = pydicom.Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = "ORGAN"
        observation.ROIInterpreter = ""
        dataset.RTROIObservationsSequence.append(observation)
    return dataset


def _reference(sop_class: UID, sop_instance: UID) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item


def main() -> int:
    """Writes the phantom to ``--output_dir``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m preprocess.phantom", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="folder to create")
    parser.add_argument("--layout", choices=LAYOUTS, default="challenge", help="how the files are arranged")
    parser.add_argument("--version", action="version", version=f"cardiac-lv-records {__version__}")
    arguments = parser.parse_args()
    output_dir = arguments.output_dir
    try:
        write_phantom(output_dir, layout=arguments.layout)
    except FatalInputError as error:
        print(f"preprocess.phantom: {error}", file=sys.stderr)
        return 1
    terminal.announce(f"{len(STUDIES)} studies of {SLICES} slices and {PHASES} phases written to {output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
