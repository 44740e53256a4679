import pathlib

import numpy as np
import pydicom
import pytest
import shapely

from pipeline import iterate_batches
from preprocess import phantom
from preprocess.geometry.masks import rasterize
from preprocess.inputs.sources import open_source
from preprocess.layouts.challenge import discover

from .helpers.trees import contents


def test_one_seed_gives_the_same_bytes(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    phantom.write_phantom(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(phantom_dir)


def test_it_has_the_layout_and_the_flaws_of_real_data(phantom_dir: pathlib.Path) -> None:
    studies, findings = discover(open_source(phantom_dir))
    assert len(studies) == 3
    assert sorted(finding.reason for finding in findings) == ["junk", "missing_study"]
    for study in studies:
        assert list(study.images) == list(range(1, 121))
        inner = [slice_index * 20 + phase + 1 for slice_index in range(6) for phase in (0, 8)]
        assert [number for number in study.contours["i"] if number <= 120] == inner
        assert list(study.contours["o"]) == inner[::2]
    assert 121 in studies[0].contours["i"]


def test_its_files_are_mr_images(phantom_dir: pathlib.Path) -> None:
    """dicom3tools' dciodvfy finds no error in them; this checks what a reader depends on."""
    dataset = pydicom.dcmread(phantom_dir / "dicoms" / "PHANTOM002" / "47.dcm")
    assert dataset.SOPClassUID.name == "MR Image Storage"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.pixel_array.dtype == np.int16
    assert dataset.pixel_array.shape == (256, 256)
    assert (dataset.PatientID, dataset.InstanceNumber) == ("PHANTOM002", 47)
    row, column = np.reshape(dataset.ImageOrientationPatient, (2, 3))
    assert np.linalg.norm(row) == pytest.approx(1)
    assert np.linalg.norm(column) == pytest.approx(1)
    assert row @ column == pytest.approx(0)
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in phantom_dir.glob("dicoms/*/[0-9]*.dcm")}
    assert len(uids) == 360


def test_contours_lie_on_half_pixels_and_nest(phantom_dir: pathlib.Path) -> None:
    areas = {}
    for path in sorted(phantom_dir.glob("contourfiles/*/*/*.txt")):
        polygon = np.loadtxt(path)
        assert np.array_equal(polygon * 2, np.rint(polygon * 2))
        areas[path.parts[-3], path.name[8:14]] = shapely.Polygon(polygon)
    assert len(areas) == 55
    nested = 0
    for (contour_id, name), inner in areas.items():
        assert inner.is_valid
        outer = areas.get((contour_id, name[:-1] + "o"))
        if name.endswith("i") and outer is not None:
            assert outer.contains(inner)
            nested += 1
    assert nested == 18


def test_the_cavity_is_bright_where_the_contour_says(phantom_dir: pathlib.Path) -> None:
    paths = sorted(phantom_dir.glob("contourfiles/PH-2/i-contours/*.txt"))
    assert len(paths) == 12
    for path in paths:
        number = int(path.name[8:12])
        pixels = pydicom.dcmread(phantom_dir / "dicoms" / "PHANTOM002" / f"{number}.dcm").pixel_array
        polygon = np.loadtxt(path)
        mask = rasterize(polygon, pixels.shape)
        assert pixels[mask].mean() > 400
        # No shift of the contour fits the image better.
        contrasts = {(dx, dy): pixels[np.roll(mask, (dy, dx), (0, 1))].mean() for dx in (-2, 0, 2) for dy in (-2, 0, 2)}
        assert max(contrasts, key=contrasts.__getitem__) == (0, 0)


def test_the_heart_contracts(phantom_dir: pathlib.Path, phantom_records: pathlib.Path) -> None:
    assert sum(len(images) for images, _ in iterate_batches(phantom_records, split="train", epochs=1)) == 24
    volumes = {}
    for number in (1, 9):
        volumes[number] = sum(
            shapely.Polygon(np.loadtxt(path)).area
            for path in phantom_dir.glob("contourfiles/PH-3/i-contours/*.txt")
            if int(path.name[8:12]) % 20 == number
        )
    assert 0.3 < 1 - volumes[9] / volumes[1] < 0.7
