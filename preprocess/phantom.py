"""The built-in example: three small studies of a beating left ventricle, drawn from formulas and a seed.

    python -m preprocess.phantom --output_dir=phantom

It has the layout of real data and one example of each of its flaws: a row of ``link.csv`` whose study is missing, a
contour without an image, an AppleDouble file beside an image, images without a contour, and a contour beside its heart.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import shutil
import sys

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

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


def write_phantom(output_dir: pathlib.Path, seed: int = 0) -> None:
    """Writes ``dicoms``, ``contourfiles`` and ``link.csv`` below ``output_dir``; a seed always gives the same bytes.

    Raises:
        FatalInputError: ``output_dir`` already contains one of them, or cannot be written.
    """
    for name in ("dicoms", "contourfiles", "link.csv"):
        if os.path.lexists(output_dir / name):
            raise FatalInputError(str(output_dir), f"already contains {name}; choose another --output_dir")
    with publication.writing(output_dir):
        for index, study_id in enumerate(STUDIES):
            _write_study(output_dir, study_id, f"PH-{index + 1}", np.random.default_rng([seed, index]))
        rows = [f"{study_id},PH-{number}\n" for number, study_id in enumerate((*STUDIES, "PHANTOM004"), start=1)]
        (output_dir / "link.csv").write_text("".join(["patient_id,original_id\n", *rows]), "ascii")
        first = output_dir / "contourfiles" / "PH-1" / "i-contours"
        shutil.copyfile(first / contour_name(1, "i"), first / contour_name(SLICES * PHASES + 1, "i"))
        apple_double = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
        (output_dir / "dicoms" / STUDIES[0] / "._1.dcm").write_bytes(apple_double)


def contour_name(number: int, kind: str) -> str:
    """The file name of a contour of one kind on an image."""
    return f"IM-0001-{number:04d}-{kind}contour-manual.txt"


def _write_study(output_dir: pathlib.Path, study_id: str, contour_id: str, rng: np.random.Generator) -> None:
    images = output_dir / "dicoms" / study_id
    images.mkdir(parents=True)
    for kind in "io":
        (output_dir / "contourfiles" / contour_id / f"{kind}-contours").mkdir(parents=True)
    heart = Heart(rng)
    for slice_index in range(SLICES):
        for phase in range(PHASES):
            number = slice_index * PHASES + phase + 1
            pixels = heart.image(slice_index, phase, rng)
            _dataset(study_id, number, slice_index, phase, heart.spacing_mm, pixels).save_as(
                images / f"{number}.dcm", enforce_file_format=True
            )
            for kind in _CONTOURED.get(phase, ""):
                folder = output_dir / "contourfiles" / contour_id / f"{kind}-contours"
                moved = _MOVED_PX if (study_id, number) == MOVED else (0.0, 0.0)
                _write_contour(folder / contour_name(number, kind), heart.contour(kind, slice_index, phase) + moved)


SUNNYBROOK = {"SCD0000101": "SC-HF-I-1", "SCD0001301": "SC-HF-NI-3", "SCD0003701": "SC-N-2"}
"""Three patients of the Sunnybrook Cardiac Data, by whose names the layout sunnybrook calls the phantom's studies."""


def _write_sunnybrook(output_dir: pathlib.Path, seed: int) -> None:
    """Writes the studies as the Sunnybrook Cardiac Data is distributed, without flaws.

    Beside the short-axis series lie a long-axis series and contours of papillary muscles, neither of which is used.
    """
    for index, (study_id, original) in enumerate(SUNNYBROOK.items()):
        rng = np.random.default_rng([seed, index])
        heart = Heart(rng)
        images = output_dir / f"SCD_IMAGES_{index + 1:02d}" / study_id
        group, _, member = original.rpartition("-")
        contours = output_dir / "SCD_ManualContours" / f"{group}-{member:0>2}" / "contours-manual" / "IRCCI-expert"
        contours.mkdir(parents=True)
        for series, view, slices in ((3, "CINESAX", SLICES), (4, "CINELAX", 1)):
            folder = images / f"{view}_{series}00"
            folder.mkdir(parents=True)
            for number in range(1, slices * PHASES + 1):
                slice_index, phase = divmod(number - 1, PHASES)
                pixels = heart.image(slice_index, phase, rng)
                dataset = _dataset(study_id, number, slice_index, phase, heart.spacing_mm, pixels)
                dataset.SeriesDescription, dataset.SeriesNumber = view, series
                if view == "CINELAX":
                    normal = np.cross(_ROW, _COLUMN)
                    dataset.ImageOrientationPatient = [*_ROW, *(round(float(cosine), 4) for cosine in normal)]
                    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study_id, view])
                    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[study_id, view, str(number)])
                dataset.save_as(folder / f"IM-{series:04d}-{number:04d}.dcm", enforce_file_format=True)
        for number in range(1, SLICES * PHASES + 1):
            slice_index, phase = divmod(number - 1, PHASES)
            for kind in _CONTOURED.get(phase, ""):
                points = heart.contour(kind, slice_index, phase)
                _write_contour(contours / contour_name(number, kind), points)
                if kind == "i":
                    center = points.mean(axis=0)
                    _write_contour(contours / contour_name(number, "p1"), center + (points - center + (20, 30)) / 5)
    rows = [f"{study_id},{original},,,\n" for study_id, original in SUNNYBROOK.items()]
    table = "".join(["PatientID,OriginalID,Gender,Age,Pathology\n", *rows])
    (output_dir / "scd_patientdata.csv").write_text(table, "ascii")


def _write_contour(path: pathlib.Path, points: Polygon) -> None:
    path.write_text("".join(f"{x:.2f} {y:.2f}\n" for x, y in points), "ascii")


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
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[study_id, str(number)])
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


def main() -> int:
    """Writes the phantom to ``--output_dir``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m preprocess.phantom", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="folder to create")
    parser.add_argument("--version", action="version", version=f"cardiac-lv-records {__version__}")
    output_dir = parser.parse_args().output_dir
    try:
        write_phantom(output_dir)
    except FatalInputError as error:
        print(f"preprocess.phantom: {error}", file=sys.stderr)
        return 1
    terminal.announce(f"{len(STUDIES)} studies of {SLICES} slices and {PHASES} phases written to {output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
