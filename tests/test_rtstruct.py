"""The layout of RT Structure Sets: which image is where, which contour is on it, and what is said of the rest."""

import io
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import shapely
from pydicom.dataelem import RawDataElement

from benchmarks.exact import pixel_areas
from pipeline import Records, verify
from preprocess import phantom
from preprocess.config import Config
from preprocess.dicom.reader import read_header
from preprocess.findings import FatalInputError, Finding
from preprocess.geometry import polygons
from preprocess.inputs.sources import open_source
from preprocess.inputs.structure_sets import StructureSet
from preprocess.layouts import discovery, rtstruct
from preprocess.model import Study
from preprocess.run import run

from .helpers.dicom import LIMIT, get_testdata_file
from .helpers.shared import shared_phantom
from .helpers.structures import (
    NORMAL,
    POSITION,
    SQUARE,
    THICKNESS,
    Here,
    image,
    in_patient,
    outline,
    ring,
    saved,
    structure_set,
    write,
)
from .helpers.tables import audit_of, read_table
from .helpers.trees import contents, zipped

ROI = "inner=LV endo,outer=LV epi"

SMALL = [(30.0, 25.0), (45.0, 25.0), (45.0, 40.0), (30.0, 40.0)]


def discovered(root: pathlib.Path, roi: str = "inner=LV*", **settings: Any) -> tuple[list[Study], list[Finding]]:
    source = open_source(root)
    config = Config(root, root / "records", layout="rtstruct", roi=roi, **settings)
    return rtstruct.discover(source, config, Here(source, config))


def findings_of(root: pathlib.Path, roi: str = "inner=LV*") -> list[tuple[str, str, str]]:
    return [(finding.reason, finding.path, finding.detail) for finding in discovered(root, roi)[1]]


def write_study(root: pathlib.Path, folder: str, study: str = "1.2", count: int = 3, **elements: Any) -> None:
    """A study of one series in one folder, and a structure set with a contour on each image but the last."""
    uids = [f"{study}.1.{number}" for number in range(1, count + 1)]
    for number, uid in enumerate(uids, start=1):
        position = POSITION + 8 * number * NORMAL
        dataset = image(uid, f"{study}.1", study, position, InstanceNumber=number, SeriesNumber=1, **elements)
        write(root / folder / f"image{number}", dataset)
    contours = [ring(uid, SQUARE, position=POSITION + 8 * n * NORMAL) for n, uid in enumerate(uids[:-1], start=1)]
    write(root / folder / "structures.dcm", structure_set(LV_endo=contours))


@pytest.fixture(scope="session")
def phantom_rtstruct(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return shared_phantom(tmp_path_factory, "rtstruct")


# The phantom.


def pairs_of(records: pathlib.Path) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    found = Records(records)
    return {
        (str(row["study_id"]), int(row["instance_number"])): found[position] for position, row in enumerate(found.table)
    }


def test_the_phantom_gives_the_same_pairs_as_in_the_layout_of_the_challenge(
    phantom_rtstruct: pathlib.Path, phantom_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    summary = run(Config(phantom_rtstruct, tmp_path / "records", roi=ROI, split="val=PHANTOM002"))
    assert summary.left_out == {"no_image": 1}
    assert summary.warnings == {"implausible_contour": 1}
    assert list(verify.faults(tmp_path / "records")) == []
    found, expected = pairs_of(tmp_path / "records"), pairs_of(phantom_records)
    assert found.keys() == expected.keys()
    assert len(found) == 36
    for key, (pixels, mask) in expected.items():
        assert np.array_equal(found[key][0], pixels)
        # Vertices are on half pixels, so that a contour halves many pixels exactly.
        assert np.mean(found[key][1] != mask) < 0.002
    rows = {(row["study_id"], row["instance_number"]): row for row in read_table(tmp_path / "records" / "pairs.csv")}
    for row in read_table(phantom_records / "pairs.csv"):
        same = rows[row["study_id"], row["instance_number"]]
        assert (same["slice_index"], same["phase_index"]) == (row["slice_index"], row["phase_index"])
        assert float(same["polygon_area_px"]) == pytest.approx(float(row["polygon_area_px"]), abs=0.02)


def test_the_phantom_has_the_same_bytes_each_time_and_replaces_nothing(
    phantom_rtstruct: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    phantom.write_phantom(tmp_path / "again", layout="rtstruct")
    assert contents(tmp_path / "again") == contents(phantom_rtstruct)
    with pytest.raises(FatalInputError, match="again: already contains PHANTOM001; choose another --output_dir"):
        phantom.write_phantom(tmp_path / "again", layout="rtstruct")


def test_a_zip_and_a_folder_give_the_same_studies(tmp_path: pathlib.Path) -> None:
    for folder, study in (("b", "1.2"), ("a", "1.3")):
        write_study(tmp_path / "data", folder, study, PatientID=study)
    expected = discovered(tmp_path / "data")
    assert [study.study_id for study in expected[0]] == ["a", "b"]
    assert discovered(zipped(tmp_path / "data", tmp_path / "data.zip")) == expected


def test_names_of_files_make_no_difference(phantom_rtstruct: pathlib.Path, tmp_path: pathlib.Path) -> None:
    original, renamed = phantom_rtstruct / "PHANTOM002", tmp_path / "data" / "PHANTOM002"
    renamed.mkdir(parents=True)
    for path in original.iterdir():
        # These names sort in another order.
        (renamed / path.name[::-1]).symlink_to(path)
    (study,), findings = discovered(tmp_path / "data", ROI)
    assert findings == []
    assert study.images == {number: f"PHANTOM002/{f'IM-{number:04d}.dcm'[::-1]}" for number in range(1, 121)}
    assert list(study.contours["o"]) == list(range(1, 121, phantom.PHASES))


def test_it_is_recognized_by_its_content(phantom_rtstruct: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = Config(phantom_rtstruct, tmp_path / "records")
    chosen = discovery.choose(open_source(phantom_rtstruct), config)
    assert chosen == ("rtstruct", "PHANTOM001/RS-PH-1.dcm is an RT Structure Set")
    for name in ("a", "b.txt"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"DICM" * 300)
    write(tmp_path / "data" / "c", image("1.2.3"))
    (tmp_path / "data" / "missing").symlink_to("nowhere")
    assert rtstruct.recognize(open_source(tmp_path / "data")) == ""
    write(tmp_path / "data" / "d", structure_set())
    assert rtstruct.recognize(open_source(tmp_path / "data")) == "d is an RT Structure Set"


# ROIs.


def test_without_roi_the_names_are_listed_with_their_structure_sets(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "one", structure_set(LV_endo=[], Rand=[]))
    write(tmp_path / "two", structure_set(LV_endo=[], Ärger=[], **{"LV epi": []}))
    with pytest.raises(FatalInputError) as raised:
        discovered(tmp_path, "")
    assert str(raised.value) == (
        f'{tmp_path}: --roi does not name the inner contours; pass --roi=inner="NAME" with names from this list (* and '
        "? stand for any text and any letter):\n"
        "  'LV endo' (2 structure sets)\n  'LV epi' (1 structure set)\n  'Rand' (1 structure set)\n"
        "  'Ärger' (1 structure set)"
    )


@pytest.mark.parametrize(
    ("roi", "contours", "message"),
    [
        ("inner=LV", "i", "no ROI is named 'LV', as --roi says; pass --roi=inner=\"NAME\" with"),
        ("inner=LV endo,outer=nothing", "i", "no ROI is named 'nothing', as --roi says; pass --roi=inner="),
        ("inner=LV endo", "io", '--roi does not name the outer contours; pass --roi=inner="NAME",outer="NAME" with'),
        ("", "o", '--roi does not name the outer contours; pass --roi=outer="NAME" with'),
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_names(
    tmp_path: pathlib.Path, roi: str, contours: Any, message: str
) -> None:
    write_study(tmp_path, "a")
    with pytest.raises(FatalInputError, match=re.escape(message)) as raised:
        discovered(tmp_path, roi, contours=contours)
    assert "\n  'LV endo' (1 structure set)" in str(raised.value)


@pytest.mark.parametrize("pattern", ["LV endo", "lv ENDO", " LV endo ", "LV*", "?V e*", "*endo*", "[L]V endo"])
def test_names_match_patterns_whatever_their_case_and_the_space_around_them(
    tmp_path: pathlib.Path, pattern: str
) -> None:
    write_study(tmp_path, "a")
    ((study,), _) = discovered(tmp_path, f"inner={pattern}")
    assert study.contours["i"] == {number: f"a/structures.dcm#roi1-image{number}" for number in (1, 2)}
    assert study.contours["o"] == {}


def test_two_rois_of_one_kind_on_one_image_are_not_guessed(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "a")
    contours = [ring("1.2.1.1", SMALL), ring("1.2.1.3", SMALL)]
    write(tmp_path / "a" / "other.dcm", structure_set(LV_endo_2=contours))
    (study,), findings = discovered(tmp_path)
    assert list(study.contours["i"]) == [2, 3]
    assert [(finding.reason, finding.path, finding.instance_number, finding.contour) for finding in findings] == [
        ("duplicate_contour", "a/other.dcm#roi1-image1", 1, "i"),
        ("duplicate_contour", "a/structures.dcm#roi1-image1", 1, "i"),
    ]
    # The folder names several structure sets.
    assert study.contour_id == "a"


def test_one_data_set_without_structure_sets_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a", image("1.2.3"))
    with pytest.raises(FatalInputError, match=r"contains no RT Structure Set that can be read$"):
        discovered(tmp_path)
    (tmp_path / "b").write_bytes(saved(structure_set(LV=[ring("1.2.3")]))[:-20])
    with pytest.raises(FatalInputError, match=r"that can be read; b: it is cut short, or the length of an element"):
        discovered(tmp_path)


# Studies and numbers.


def test_ids_are_folders_and_numbers_are_instance_numbers(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "export/A/MR", "1.2")
    write_study(tmp_path, "export/B", "1.3", PatientID="OTHER")
    studies, findings = discovered(tmp_path)
    assert findings == []
    assert [(study.study_id, study.contour_id, study.patient_ids) for study in studies] == [
        ("export_A_MR", "export_A_MR_structures", None),
        ("export_B", "export_B_structures", None),
    ]
    assert studies[1].images == {number: f"export/B/image{number}" for number in (1, 2, 3)}
    assert list(studies[1].contours["i"]) == [1, 2]


def test_studies_of_one_folder_are_counted(tmp_path: pathlib.Path) -> None:
    for study, prefix in (("1.3", "a"), ("1.2", "b")):
        write(tmp_path / "all" / prefix, image(f"{study}.1.1", f"{study}.1", study, PatientID=study))
        write(tmp_path / "all" / f"{prefix}.dcm", structure_set(LV=[ring(f"{study}.1.1")]))
    assert [(study.study_id, study.images) for study in discovered(tmp_path)[0]] == [
        ("all-1", {1: "all/a"}),
        ("all-2", {1: "all/b"}),
    ]
    assert [(study.study_id, study.images) for study in discovered(tmp_path / "all")[0]] == [
        ("study-1", {1: "a"}),
        ("study-2", {1: "b"}),
    ]
    # Two folders whose names are the same with _ for /, and one that has the name that they would get.
    for study, folder in (("2.1", "p/q"), ("2.2", "p_q"), ("2.3", "p_q-1")):
        write(tmp_path / "more" / folder / "image", image(f"{study}.1.1", f"{study}.1", study, PatientID=study))
        write(tmp_path / "more" / folder / "rs", structure_set(LV=[ring(f"{study}.1.1")]))
    assert [(study.study_id, study.images[1]) for study in discovered(tmp_path / "more")[0]] == [
        ("p_q-1", "p_q-1/image"),
        ("p_q-2", "p/q/image"),
        ("p_q-3", "p_q/image"),
    ]


def test_slices_in_a_series_each_are_numbered_by_series_and_instance(tmp_path: pathlib.Path) -> None:
    """Short-axis stacks often have a series for each slice, in which Instance Numbers start again."""
    contours = []
    for series in (10, 9):
        for number in (2, 1, 11):
            uid = f"1.2.{series}.{number}"
            position = POSITION + 8 * series * NORMAL
            dataset = image(uid, f"1.2.{series}", "1.2", position, SeriesNumber=series, InstanceNumber=number)
            write(tmp_path / f"{series}" / f"{number}.dcm", dataset)
        contours.append(ring(f"1.2.{series}.2", position=position))
    write(tmp_path / "rs", structure_set(LV=contours))
    (study,), findings = discovered(tmp_path)
    assert findings == []
    expected = ["9/1.dcm", "9/2.dcm", "9/11.dcm", "10/1.dcm", "10/2.dcm", "10/11.dcm"]
    assert study.images == dict(enumerate(expected, start=1))
    assert list(study.contours["i"]) == [2, 5]


@pytest.mark.parametrize("numbers", [(None, 5), (-1, 5), (5, 5)])
def test_images_without_usable_instance_numbers_are_counted(
    tmp_path: pathlib.Path, numbers: Sequence[int | None]
) -> None:
    for name, number in zip("ab", numbers, strict=True):
        write(tmp_path / name, image(f"1.2.1.{ord(name)}", InstanceNumber=number))
    write(tmp_path / "rs", structure_set(LV=[ring("1.2.1.97")]))
    (study,), _ = discovered(tmp_path)
    assert list(study.images) == [1, 2]
    assert set(study.images.values()) == {"a", "b"}
    (number,) = study.contours["i"]
    assert study.images[number] == "a"


def test_series_and_studies_without_contours_are_counted(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "A/SAX")
    for number in range(4):
        write(tmp_path / "A" / "LAX" / f"{number}", image(f"1.2.7.{number}", "1.2.7", InstanceNumber=1))
    write(tmp_path / "B" / "scout", image("1.5.1.1", "1.5.1", "1.5"))
    (study,), findings = discovered(tmp_path)
    assert (study.study_id, list(study.images)) == ("A", [1, 2, 3])
    assert [(finding.reason, finding.study_id, finding.path, finding.detail) for finding in findings] == [
        ("unused_series", "A", "A", "4 images of other series not used: no chosen ROI has a contour there"),
        ("unused_series", "B", "B", "1 image of a study not used: no chosen ROI has a contour there"),
    ]
    assert {finding.level for finding in findings} == {"info"}


def test_two_studies_of_one_patient_are_reported(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "A", "1.2")
    write_study(tmp_path, "B", "1.3")
    write_study(tmp_path, "C", "1.4", PatientID="OTHER")
    write_study(tmp_path, "D", "1.5", PatientID=None)
    write_study(tmp_path, "E", "1.6", PatientID=None)
    studies, (finding,) = discovered(tmp_path)
    assert len(studies) == 5
    assert (finding.reason, finding.level, finding.study_id) == ("same_patient", "warning", "A")
    assert finding.text == (
        "images of the studies A, B have the same Patient ID (0010,0020); name these studies in one split "
        "(--split=val=A+B)"
    )


def test_one_instance_in_two_files_is_not_guessed(tmp_path: pathlib.Path) -> None:
    """Whether the files are the same or not: which one the contour was drawn on is unknown."""
    write_study(tmp_path, "a")
    write(tmp_path / "b" / "copy", image("1.2.1.2", InstanceNumber=2))
    (study,), findings = discovered(tmp_path)
    assert list(study.images) == [1, 3]
    assert list(study.contours["i"]) == [1, 2]
    assert [(finding.reason, finding.path, finding.instance_number) for finding in findings] == [
        ("duplicate_image", "a/image2", 2),
        ("duplicate_image", "b/copy", 2),
    ]
    summary = run(Config(tmp_path, tmp_path / "records", roi="inner=LV*"))
    assert (summary.records, summary.left_out) == ({"train": 1}, {"duplicate_image": 1})


# Findings.


def test_a_structure_set_that_refers_to_other_images_is_one_row(tmp_path: pathlib.Path) -> None:
    """qurit/rt-utils#82, #63 and #10: one image that is missing ends the reading of all."""
    write_study(tmp_path, "a")
    contours = [ring("1.2.1.1"), *(ring(f"9.9.{number}") for number in range(500))]
    write(tmp_path / "a" / "structures.dcm", structure_set(LV_endo=contours))
    studies, findings = discovered(tmp_path)
    assert [list(study.contours["i"]) for study in studies] == [[1]]
    (finding,) = findings
    assert (finding.reason, finding.path, finding.study_id, finding.contour) == (
        "no_image", "a/structures.dcm", "a", "i",
    )  # fmt: skip
    assert finding.detail == "500 images with a contour of ROI 1 (inner) are not in the data set"


def test_contours_that_cannot_be_used_are_one_row_for_each_problem(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "a")
    data = in_patient(SQUARE)
    contours = [
        ring("1.2.1.1", position=POSITION + 8 * NORMAL),
        *[outline(None, data) for _ in range(300)],
        *[outline("1.2.1.2", data, "POINT") for _ in range(200)],
    ]
    write(tmp_path / "a" / "structures.dcm", structure_set(LV_endo=contours, LV_epi=[], other=[outline(None, data)]))
    (study,), findings = discovered(tmp_path, ROI)
    assert list(study.contours["i"]) == [1]
    assert [(finding.reason, finding.level, finding.contour, finding.detail) for finding in findings] == [
        (
            "unusable_roi", "error", "i",
            "300 of 501 contours of ROI 1 (inner) do not say on which image they are drawn (Contour Image Sequence "
            "(3006,0016))",
        ),
        (
            "unusable_roi", "error", "i",
            "200 of 501 contours of ROI 1 (inner) do not go around a region: they are points or open lines",
        ),
        ("unusable_roi", "warning", "o", "ROI 2 (outer) has no contours"),
    ]  # fmt: skip


def test_other_files_are_counted_by_folder(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "a")
    plan = structure_set()
    plan.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    write(tmp_path / "a" / "plan.dcm", plan)
    without_uid = image("1.2.1.9")
    del without_uid.StudyInstanceUID
    write(tmp_path / "a" / "without.dcm", without_uid)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "empty").touch()
    (tmp_path / "a" / ".DS_Store").touch()
    (tmp_path / "a" / "cut.dcm").write_bytes(saved(image("1.2.1.8"))[:400])
    assert findings_of(tmp_path) == [
        ("junk", "a", "1 file skipped: not named like a DICOM image or an RT Structure Set"),
        ("junk", "a", "2 files skipped: not DICOM"),
        (
            "junk", "a",
            "3 files skipped: DICOM, but not a DICOM image or an RT Structure Set with UIDs of study, series and "
            "instance",
        ),
    ]  # fmt: skip


def test_a_contour_off_its_image_and_one_of_parts_are_rows(tmp_path: pathlib.Path) -> None:
    write_study(tmp_path, "a", count=4)
    at = [POSITION + 8 * number * NORMAL for number in (1, 2, 3)]
    contours = [
        ring("1.2.1.1", SQUARE, position=at[0]),
        ring("1.2.1.2", SQUARE, position=at[1], off_mm=THICKNESS),
        ring("1.2.1.3", SQUARE, position=at[2]),
        ring("1.2.1.3", SMALL, position=at[2]),
    ]
    write(tmp_path / "a" / "structures.dcm", structure_set(LV=contours))
    summary = run(Config(tmp_path, tmp_path / "records", roi="inner=LV"))
    assert (summary.records, summary.left_out) == ({"train": 2}, {"off_plane_contour": 1})
    rows = {row["reason"]: row for row in audit_of(tmp_path / "records")}
    assert rows["off_plane_contour"]["detail"].startswith("it lies up to 6 mm off the plane of its image, at most 3 mm")
    assert rows["off_plane_contour"]["path"] == "a/structures.dcm#roi1-image2"
    assert rows["several_parts"]["instance_number"] == "3"
    assert "self_intersecting" not in rows
    masks = {number: mask for (_, number), (_, mask) in pairs_of(tmp_path / "records").items()}
    assert masks[1].sum() - masks[3].sum() == 15 * 15


# Privacy.


def test_no_text_of_a_header_reaches_an_output(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Canaries in every text element, identifiers included, of images that are used and not used, and of contours."""
    canary = "CANARY"
    keywords = "StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName", "StudyID"
    texts: dict[str, Any] = dict.fromkeys(keywords, canary)
    root = tmp_path / "data"
    uids = {number: f"1.2.77777.{number}" for number in range(1, 6)}
    for number, uid in uids.items():
        dataset = image(uid, "1.2.77777.100", "1.2.77777.200", POSITION, InstanceNumber=number, **texts)
        dataset.PatientID, dataset.PatientName = canary, f"{canary}^NAME"
        dataset.FrameOfReferenceUID = "1.2.77777.300"
        dataset.preamble = canary.encode().ljust(128)
        dataset.private_block(0x0011, canary, create=True).add_new(1, "LO", canary)
        write(root / "study" / f"{number}.dcm", dataset)
    write(root / "study" / "copy", image(uids[5], "1.2.77777.100", "1.2.77777.200", PatientID=canary, **texts))
    write(root / "other" / "1", image("1.2.77777.9", "1.2.77777.8", "1.2.77777.7", PatientID=canary, **texts))
    contours = [
        ring(uids[1], SMALL),
        ring(uids[2], SQUARE),
        ring(uids[3], SMALL, off_mm=50),
        ring(uids[5], SMALL),
        ring("1.2.77777.55"),
        outline(None, in_patient(SQUARE)),
        outline(uids[4], ["1", "2", "3"]),
        outline(uids[4], in_patient(SMALL), canary),
    ]
    dataset = structure_set(**{f"{canary} endo": contours, f"{canary} epi": [ring(uids[1], SQUARE)]})
    values = dataset.ROIContourSequence[0].ContourSequence[-2]
    values[0x30060050] = RawDataElement(pydicom.tag.Tag(0x30060050), "DS", 6, canary.encode(), 0, False, True)
    dataset.StructureSetLabel = dataset.StructureSetName = dataset.StructureSetDescription = canary
    dataset.PatientID, dataset.PatientName, dataset.SeriesDescription = canary, canary, canary
    dataset.StructureSetROISequence[0].ROIDescription = canary
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.77777.300"
    write(root / "study" / "rs", dataset)
    broken = structure_set(**{f"{canary} endo": []})
    number = pydicom.tag.Tag(0x30060022)
    broken.StructureSetROISequence[0][number] = RawDataElement(number, "IS", 6, canary.encode(), 0, False, True)
    write(root / "study" / "broken", broken)
    caplog.set_level("DEBUG")
    summary = run(Config(root, tmp_path / "records", roi="inner=*endo,outer=*epi"))
    assert summary.records == {"train": 2}
    reasons = {row["reason"] for row in audit_of(tmp_path / "records")}
    assert {"off_plane_contour", "no_image", "unusable_roi", "unreadable_contour", "duplicate_image"} <= reasons
    written = contents(tmp_path / "records") | {
        "log": caplog.text.encode(),
        "terminal": "".join(capfd.readouterr()).encode(),
    }
    for name, content in written.items():
        assert canary.encode() not in content, name
        assert b"1.2.77777" not in content, name
    assert b"study" in written["audit.csv"]


# Other people's files.


@pytest.mark.parametrize(
    "sample", ["rtplan.dcm", "rtdose.dcm", "DICOMDIR", "reportsi.dcm", "MR_small.dcm", "rtstruct.dcm"]
)
def test_sample_files_of_pydicom_beside_a_study_change_nothing(tmp_path: pathlib.Path, sample: str) -> None:
    write_study(tmp_path, "a")
    expected = discovered(tmp_path)[0]
    shutil.copy(get_testdata_file(sample), tmp_path / "sample.dcm")
    studies, findings = discovered(tmp_path)
    assert studies == expected
    assert len(findings) == 1


# The four real studies.


def laid_out(real_data: pathlib.Path, root: pathlib.Path) -> None:
    """The real studies as images and structure sets. Points are computed from the standard's equation alone.

    Contours in pixels from the corner of the first pixel, whose center is Image Position (PS3.3 C.7.6.2.1.1).
    """
    for study_id, contour_id in REAL.items():
        headers = {}
        for path in sorted((real_data / "dicoms" / study_id).glob("*.dcm")):
            headers[int(path.stem)] = pydicom.dcmread(path, stop_before_pixels=True)
            (root / study_id).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / study_id / f"MR{path.stem}")
        rois: dict[str, list[pydicom.Dataset]] = {"endo": [], "epi": []}
        for kind, name in (("i", "endo"), ("o", "epi")):
            for path in sorted((real_data / "contourfiles" / contour_id / f"{kind}-contours").glob("*.txt")):
                header = headers[int(path.name[8:12])]
                rows, columns = map(float, header.PixelSpacing)
                along_row, along_column = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
                data: list[str] = []
                for x, y in np.loadtxt(path):
                    point = np.array(header.ImagePositionPatient, float)
                    point = point + (x - 0.5) * columns * along_row + (y - 0.5) * rows * along_column
                    data += [f"{value:.10g}" for value in point]
                rois[name].append(outline(header.SOPInstanceUID, data))
        write(root / study_id / "RS", structure_set(**rois))


REAL = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000301": "SC-HF-I-4", "SCD0000401": "SC-HF-I-5"}


@pytest.mark.parametrize("archive", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_real_studies_as_structure_sets_give_the_same_records(
    real_data: pathlib.Path, real_records: pathlib.Path, tmp_path: pathlib.Path, archive: bool
) -> None:
    # Some UIDs there have parts that begin with 0.
    with pydicom.config.disable_value_validation():
        laid_out(real_data, tmp_path / "data")
    data = zipped(tmp_path / "data", tmp_path / "data.zip") if archive else tmp_path / "data"
    summary = run(Config(data, tmp_path / "records", roi="inner=ENDO,outer=epi"))
    assert (summary.records, summary.left_out) == ({"train": 74}, {})
    found, expected = pairs_of(tmp_path / "records"), pairs_of(real_records)
    assert found.keys() == expected.keys()
    for (study_id, number), (pixels, mask) in expected.items():
        image_found, mask_found = found[study_id, number]
        assert image_found.tobytes() == pixels.tobytes()
        folder = real_data / "contourfiles" / REAL[study_id] / "i-contours"
        polygon = np.loadtxt(folder / f"IM-0001-{number:04d}-icontour-manual.txt")
        clear = np.abs(pixel_areas(polygon, pixels.shape[:2]) - 0.5) > 1e-6
        assert np.array_equal(mask_found[clear], mask[clear])
    # Slices, phases, volumes and what the audit says of contours are the same, too.
    compared = "slice_index", "phase_index", "mean_inside", "implausibility"
    for name in ("pairs.csv", "studies.csv"):
        ours, theirs = (read_table(path / name) for path in (tmp_path / "records", real_records))
        for row, other in zip(ours, theirs, strict=True):
            for column in row.keys() & {*compared, "slices", "phases", "edv_ml", "esv_ml"}:
                assert float(row[column]) == pytest.approx(float(other[column]), abs=0.5), (name, column)


# rt-utils, an independent writer and reader. It uses what pydicom 3 deprecates.


def one_phase(phantom_rtstruct: pathlib.Path, root: pathlib.Path) -> list[pydicom.FileDataset]:
    """The end-diastolic images of a study of the phantom: rt-utils reads stacks of one phase only."""
    root.mkdir(parents=True)
    for slice_index in range(phantom.SLICES):
        name = f"IM-{slice_index * phantom.PHASES + 1:04d}.dcm"
        shutil.copy(phantom_rtstruct / "PHANTOM002" / name, root / name)
    return [pydicom.dcmread(path) for path in sorted(root.iterdir())]


def in_order(images: Sequence[pydicom.FileDataset]) -> list[pydicom.FileDataset]:
    """As rt-utils orders the layers of its masks: along the normal."""

    def location(dataset: pydicom.FileDataset) -> float:
        row, column = np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3))
        return float(np.cross(row, column) @ np.array(dataset.ImagePositionPatient, float))

    return sorted(images, key=location)


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_structure_set_by_rt_utils_is_read(phantom_rtstruct: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """It draws outlines through the centers of a mask's outermost pixels."""
    rt_utils = pytest.importorskip("rt_utils", reason="make test-clients installs it")
    root = tmp_path / "data"
    images = in_order(one_phase(phantom_rtstruct, root / "A"))
    rows, columns = np.mgrid[:256, :256]
    masks = np.stack(
        [(rows - 120) ** 2 / 1.5 + (columns - 140 - 3 * layer) ** 2 < (20 + layer) ** 2 for layer in range(6)], axis=-1
    )
    masks[110:125, 130:150, 2] = False
    masks[20:40, 30:45, 3] = True
    written = rt_utils.RTStructBuilder.create_new(str(root / "A"))
    written.add_roi(mask=masks, name="LV")
    written.save(str(tmp_path / "data" / "rs.dcm"))
    (study,), findings = discovered(root, "inner=LV")
    assert findings == []
    found = StructureSet.read(io.BytesIO((root / "rs.dcm").read_bytes()))
    for layer, dataset in enumerate(images):
        header = read_header(io.BytesIO((root / study.images[int(dataset.InstanceNumber)]).read_bytes()), LIMIT)
        polygon = found.polygon(1, header)
        outlines, _ = cv2.findContours(masks[..., layer].astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        expected = shapely.Polygon()
        for outline_px in outlines:
            expected = shapely.symmetric_difference(expected, shapely.Polygon(outline_px[:, 0] + 0.5))
        # The same region, but for a strip as narrow as rt-utils' float32.
        difference = shapely.symmetric_difference(polygons.region(polygon), expected)
        assert shapely.area(difference) < 1e-3 * shapely.length(expected)
        assert shapely.area(expected) > 1000


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rt_utils_reads_the_structure_set_of_the_phantom(
    phantom_rtstruct: pathlib.Path, phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """It rounds vertices to pixels and fills the outline, too: equal, but for pixels within one of the contour."""
    rt_utils = pytest.importorskip("rt_utils", reason="make test-clients installs it")
    images = in_order(one_phase(phantom_rtstruct, tmp_path / "A"))
    there = {dataset.SOPInstanceUID for dataset in images}
    dataset = pydicom.dcmread(phantom_rtstruct / "PHANTOM002" / "RS-PH-2.dcm")
    # It refuses references to images of other phases.
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = [
        item for item in series.ContourImageSequence if item.ReferencedSOPInstanceUID in there
    ]
    dataset.save_as(tmp_path / "rs.dcm")
    read = rt_utils.RTStructBuilder.create_from(str(tmp_path / "A"), str(tmp_path / "rs.dcm"))
    assert read.get_roi_names() == ["LV endo", "LV epi"]
    centers = shapely.points(*(np.mgrid[:256, :256][::-1] + 0.5))
    for kind, name in phantom.ROI_NAMES.items():
        masks = read.get_roi_mask_by_name(name)
        for layer, image_of in enumerate(images):
            file = phantom.contour_name(int(image_of.InstanceNumber), kind)
            polygon = shapely.Polygon(np.loadtxt(phantom_dir / "contourfiles" / "PH-2" / f"{kind}-contours" / file))
            clear = shapely.distance(centers, polygon.exterior) > 1
            expected = shapely.contains(polygon, centers)
            assert expected.sum() > 500
            assert np.array_equal(masks[..., layer][clear], expected[clear])
