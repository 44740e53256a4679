"""Whole runs on small trees: the phantom plus one flaw."""

import logging
import os
import pathlib
import pickle
import shutil
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pydicom
import pytest

from pipeline import DatasetInfo, iterate_batches, verify
from preprocess import phantom, plan
from preprocess.config import Config
from preprocess.findings import FatalInputError, Reason
from preprocess.model import ContourKind, Origin
from preprocess.report.page import write_report
from preprocess.run import run

from .helpers.records import pairs_of
from .helpers.tables import audit_of, found_by, read_table
from .helpers.trees import contents, contour, edited, image, listing

# Flaws of an image, a contour or a pair are those of pair 9 of PHANTOM001.


def missing_study(tree: pathlib.Path) -> None:
    with (tree / "link.csv").open("a") as file:
        file.write("PHANTOM009,PH-9\n")


def unlinked_study(tree: pathlib.Path) -> None:
    shutil.copytree(tree / "dicoms" / "PHANTOM002", tree / "dicoms" / "PHANTOM008")


def bad_link(tree: pathlib.Path) -> None:
    with (tree / "link.csv").open("a") as file:
        file.write("../PHANTOM002,PH-9\n")


def no_image(tree: pathlib.Path) -> None:
    image(tree, 9).unlink()


def unreadable_image(tree: pathlib.Path) -> None:
    image(tree, 9).write_bytes(b"no DICOM")


def cut_pixels(tree: pathlib.Path) -> None:
    image(tree, 9).write_bytes(image(tree, 9).read_bytes()[:-10])


def unsupported_image(tree: pathlib.Path) -> None:
    edited(image(tree, 9), PhotometricInterpretation="RGB", SamplesPerPixel=3)


def another_patient(tree: pathlib.Path) -> None:
    edited(image(tree, 9), PatientID="SOMEBODY")


def another_number(tree: pathlib.Path) -> None:
    edited(image(tree, 9), InstanceNumber=10)


def unreadable_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("1 2\n3\n")


def degenerate_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("1 2\n3 4\n")


def tiny_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("100.1 100.1\n100.2 100.1\n100.2 100.2\n")


def nonfinite_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("1 2\n3 4\n4 nan\n")


def oversized_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("1 2\n3 4\n5 0\n" * 40_000)


def outside_image(tree: pathlib.Path) -> None:
    contour(tree, 9).write_text("1 2\n300 4\n5 9\n")


def size_mismatch(tree: pathlib.Path) -> None:
    edited(image(tree, 9), Rows=128, Columns=512)


def duplicate_image(tree: pathlib.Path) -> None:
    shutil.copy(image(tree, 9), image(tree, 9).with_name("0009.dcm"))


def duplicate_contour(tree: pathlib.Path) -> None:
    shutil.copy(contour(tree, 9), contour(tree, 9).with_name("IM-0002-0009-icontour-manual.txt"))


def junk(tree: pathlib.Path) -> None:
    image(tree, 9).with_name("._9.dcm").write_bytes(b"")


def unused_file(tree: pathlib.Path) -> None:
    image(tree, 9).with_name("9 (1).dcm").write_bytes(b"")


def circular_link(tree: pathlib.Path) -> None:
    (tree / "dicoms" / "PHANTOM001" / "again").symlink_to(tree)


def unreadable_folder(tree: pathlib.Path) -> None:
    (tree / "dicoms" / "PHANTOM001" / "/".join("d" * 100)).mkdir(parents=True)


def unconfirmed(tree: pathlib.Path) -> None:
    edited(image(tree, 9), PatientID="")


def moved(path: pathlib.Path, dx: float) -> None:
    np.savetxt(path, np.loadtxt(path) + (dx, 0), "%.2f")


def outer(tree: pathlib.Path, number: int, contour_id: str = "PH-1") -> pathlib.Path:
    return tree / "contourfiles" / contour_id / "o-contours" / phantom.contour_name(number, "o")


def self_intersecting(tree: pathlib.Path) -> None:
    points = np.loadtxt(contour(tree, 9))
    points[20:90] = points[20:90][::-1]
    np.savetxt(contour(tree, 9), points, "%.2f")


def cut_contour(tree: pathlib.Path) -> None:
    contour(tree, 9).write_bytes(contour(tree, 9).read_bytes()[:-2])


def open_contour(tree: pathlib.Path) -> None:
    np.savetxt(contour(tree, 9), np.loadtxt(contour(tree, 9))[:-20], "%.2f")


AUDITED = [
    # flaw, reasons of the rows that it adds, kind of the first row, number of pairs lost
    (missing_study, ["missing_study"], "study", 0),
    (unlinked_study, ["unlinked_study"], "study", 0),
    (bad_link, ["bad_link"], "link", 0),
    (no_image, ["no_image"], "contour", 1),
    (unreadable_image, ["no_image", "unreadable_image"], "contour", 1),
    (cut_pixels, ["no_image", "unreadable_image"], "contour", 1),
    (unsupported_image, ["no_image", "unsupported_image"], "contour", 1),
    (another_patient, ["header_mismatch"], "image", 1),
    (another_number, ["header_mismatch"], "image", 1),
    (unreadable_contour, ["unreadable_contour"], "contour", 1),
    (cut_contour, ["unreadable_contour"], "contour", 1),
    (degenerate_contour, ["degenerate_contour"], "contour", 1),
    (tiny_contour, ["degenerate_contour"], "contour", 1),
    (nonfinite_contour, ["nonfinite_contour"], "contour", 1),
    (oversized_contour, ["oversized_contour"], "contour", 1),
    (outside_image, ["outside_image"], "contour", 1),
    (size_mismatch, ["size_mismatch"], "pair", 1),
    (duplicate_image, ["duplicate_image", "duplicate_image", "no_image"], "image", 1),
    (duplicate_contour, ["duplicate_contour", "duplicate_contour"], "contour", 1),
    (junk, ["junk"], "file", 0),
    (unused_file, ["unused_file"], "file", 0),
    (circular_link, ["circular_link"], "file", 0),
    (unreadable_folder, ["unreadable_folder"], "file", 0),
    (unconfirmed, ["unconfirmed"], "study", 0),
    (self_intersecting, ["implausible_contour", "self_intersecting"], "contour", 0),
    (open_contour, ["open_contour"], "contour", 0),
]


@pytest.mark.parametrize(("flaw", "reasons", "kind", "cost"), AUDITED, ids=[row[0].__name__ for row in AUDITED])
def test_a_flaw_is_reported_and_costs_its_pair_alone(
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
    flaw: Callable[[pathlib.Path], None],
    reasons: list[str],
    kind: str,
    cost: int,
) -> None:
    run(Config(tree, tmp_path / "before"))
    flaw(tree)
    summary = run(Config(tree, tmp_path / "after"))
    assert list(verify.faults(tmp_path / "after")) == []
    assert summary.records == {"train": 8 - cost}
    of_study = "unlabeled_images", "incomplete_volumes"
    rows = [row for row in audit_of(tmp_path / "after") if row["reason"] not in of_study]
    assert sorted(row["reason"] for row in rows) == reasons
    first = next(row for row in rows if row["reason"] == reasons[0])
    assert first["kind"] == kind
    for row in rows:
        assert row["level"] == Reason[row["reason"].upper()].levels[0]
        assert row["detail"]
        assert not row["path"].startswith("/")
        if kind in ("image", "contour", "pair"):
            assert (row["study_id"], row["instance_number"]) == ("PHANTOM001", "9")
            assert "9" in row["path"]
    # A pair counts once; an error about a study, a folder or a row of link.csv counts by itself.
    errors = [row for row in rows if row["level"] == "error"]
    assert sum(summary.left_out.values()) == cost + sum(not row["instance_number"] for row in errors)
    assert [row["left_out"] for row in errors] == ["1"] * len(errors)
    assert summary.harmless == {}
    # A pair of another shape still counts in the volumes; two contours of one number are both dropped early.
    incomplete = found_by(tmp_path / "after", "incomplete_volumes")
    assert incomplete == [("PHANTOM001", "", "warning")] * (cost and flaw not in (size_mismatch, duplicate_contour))
    # The other pairs are unchanged.
    before, after = pairs_of(tmp_path / "before"), pairs_of(tmp_path / "after")
    assert len(after) == len(before) - cost
    assert [pair for pair in after if pair[0] != ("PHANTOM001", 9)] == [
        pair for pair in before if pair[0] != ("PHANTOM001", 9)
    ]


@pytest.mark.parametrize(("dx", "level", "written"), [(0, None, 8), (10.5, "warning", 8), (14, "error", 7)])
def test_an_inner_contour_outside_the_outer_one_is_reported(
    tree: pathlib.Path, tmp_path: pathlib.Path, dx: float, level: str | None, written: int
) -> None:
    moved(contour(tree, 21), dx)
    kinds: tuple[tuple[ContourKind, int], ...] = (("i", 8), ("o", 4))
    for kind, complete in kinds:
        summary = run(Config(tree, tmp_path / kind, contours=kind))
        assert found_by(tmp_path / kind, "not_nested") == ([("PHANTOM001", "21", level)] if level else [])
        assert summary.records == {"train": complete - (8 - written)}


def test_a_contour_that_cannot_be_drawn_has_no_part_in_the_volumes(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def volume(records: pathlib.Path) -> float:
        return float(read_table(records / "studies.csv")[0]["esv_ml"])

    run(Config(tree, tmp_path / "before"))
    points = np.loadtxt(contour(tree, 29))
    np.savetxt(contour(tree, 29), np.vstack([points, (900, 900)]))
    run(Config(tree, tmp_path / "after"))
    assert found_by(tmp_path / "after", "outside_image") == [("PHANTOM001", "29", "error")]
    # One of two slices is left.
    assert 0.4 < volume(tmp_path / "after") / volume(tmp_path / "before") < 0.6


def test_a_cavity_that_grows_at_end_systole_is_a_warning(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one, other = contour(tree, 21).read_bytes(), contour(tree, 29).read_bytes()
    contour(tree, 21).write_bytes(other)
    contour(tree, 29).write_bytes(one)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 8}
    assert found_by(tmp_path / "records", "volume_order") == [("PHANTOM001", "29", "warning")]


@pytest.mark.parametrize("origin", ["corner", "center"])
@pytest.mark.parametrize(("dx", "expected"), [(4, [("PHANTOM001", "", "warning")]), (0, [])])
def test_contours_that_lie_off_their_images_are_a_warning(
    tree: pathlib.Path, tmp_path: pathlib.Path, origin: Origin, dx: float, expected: list[tuple[str, str, str]]
) -> None:
    for path in (tree / "contourfiles" / "PH-1").rglob("*.txt"):
        moved(path, dx)
    assert run(Config(tree, tmp_path / "records", contour_origin=origin)).records == {"train": 8}
    assert found_by(tmp_path / "records", "misregistered") == expected


def copied_outer_contours(tree: pathlib.Path) -> None:
    for number in (1, 21):
        # Other line ends, so that the bytes of the files differ.
        outer(tree, number).write_bytes(outer(tree, number, "PH-2").read_bytes().replace(b"\n", b"\r\n"))


def test_outer_contours_copied_from_another_study_cost_its_o_pairs_alone(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The owner keeps its records; the other study loses only its o-contours."""
    copied_outer_contours(tree)
    assert run(Config(tree, tmp_path / "o", contours="o")).records == {"train": 2}
    assert run(Config(tree, tmp_path / "i", contours="i")).records == {"train": 8}
    assert DatasetInfo.load(tmp_path / "o").studies == ("PHANTOM002",)
    for records in (tmp_path / "i", tmp_path / "o"):
        assert found_by(records, "duplicate_contour") == [
            ("PHANTOM001", "1", "error"),
            ("PHANTOM001", "21", "error"),
            ("PHANTOM002", "1", "warning"),
            ("PHANTOM002", "21", "warning"),
        ]
        assert found_by(records, "not_nested") == [("PHANTOM001", "1", "error"), ("PHANTOM001", "21", "error")]


def test_errors_about_outer_contours_cost_a_run_with_inner_ones_nothing(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copied_outer_contours(tree)
    summary = run(Config(tree, tmp_path / "i", strict=True))
    assert (summary.records, summary.left_out) == ({"train": 8}, {})
    assert summary.harmless == {"duplicate_contour": 2, "not_nested": 2}
    errors = [row for row in audit_of(tmp_path / "i") if row["level"] == "error"]
    assert [(row["contour"], row["left_out"]) for row in errors] == [("o", "0")] * 4
    # As a list of exclusions the audit names outer contours only.
    again = run(Config(tree, tmp_path / "again", exclude=tmp_path / "i" / "audit.csv"))
    assert (again.records, again.excluded) == ({"train": 8}, 0)
    outer_only = run(Config(tree, tmp_path / "o", contours="o"))
    assert (outer_only.records, sum(outer_only.left_out.values())) == ({"train": 2}, 2)
    with pytest.raises(FatalInputError, match=r"errors left inputs out, and --strict is set\n  duplicate_contour: "):
        run(Config(tree, tmp_path / "strict", contours="o", strict=True))
    header, *rows = (tmp_path / "o" / "audit.csv").read_text().splitlines(keepends=True)
    (tmp_path / "exclude.csv").write_text("".join([header, *(row for row in rows if ",error," in row)]))
    accepted = run(Config(tree, tmp_path / "ok", contours="o", strict=True, exclude=tmp_path / "exclude.csv"))
    assert (accepted.records, accepted.left_out, accepted.excluded) == ({"train": 2}, {}, 2)


@pytest.mark.parametrize("kind", ["i", "o"])
def test_records_excluded_and_left_out_pairs_add_up_to_the_contours(
    tree: pathlib.Path, tmp_path: pathlib.Path, kind: ContourKind
) -> None:
    """Several errors about one pair, errors about the other kind, and errors about images without a contour."""
    for flaw in (copied_outer_contours, duplicate_contour, another_number):
        flaw(tree)
    image(tree, 29).write_bytes(b"no DICOM")
    image(tree, 10).write_bytes(b"no DICOM")
    (tree / "contourfiles/PH-2/i-contours" / phantom.contour_name(9, "i")).write_text("1 2\n3\n")
    (tree / "contourfiles/PH-2/i-contours" / phantom.contour_name(77, "i")).write_text("1 2\n3 4\n5 0\n")
    text = "study_id,instance_number,reason,contour\nPHANTOM002,21,blurred,\nPHANTOM002,1,blurred,i\nPHANTOM002,77,,\n"
    (tmp_path / "exclude.csv").write_text(text)
    summary = run(Config(tree, tmp_path / "records", contours=kind, exclude=tmp_path / "exclude.csv"))
    numbers = {(path.parts[-3], path.name[8:12]) for path in tree.rglob(f"*{kind}contour-manual.txt")}
    left_out = {
        (row["study_id"], row["instance_number"]) for row in audit_of(tmp_path / "records") if row["left_out"] == "1"
    }
    assert sum(summary.left_out.values()) == len(left_out)
    assert sum(summary.records.values()) + summary.excluded + len(left_out) == len(numbers)
    assert (summary.excluded, len(left_out)) == {"i": (3, 3), "o": (1, 2)}[kind]
    found = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unmatched_exclusion"]
    assert [row["instance_number"] for row in found] == {"i": [], "o": ["77"]}[kind]


def test_copied_contours_without_a_known_owner_are_left_out(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = contour(tree, 9).read_bytes()
    (tree / "contourfiles/PH-2/i-contours" / phantom.contour_name(9, "i")).write_bytes(copy)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 6}
    assert found_by(tmp_path / "records", "duplicate_contour") == [
        ("PHANTOM001", "9", "error"),
        ("PHANTOM002", "9", "error"),
    ]


def test_a_contour_carried_over_within_a_study_is_a_warning(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    contour(tree, 29).write_bytes(contour(tree, 9).read_bytes())
    assert run(Config(tree, tmp_path / "records")).records == {"train": 8}
    assert found_by(tmp_path / "records", "duplicate_contour") == [
        ("PHANTOM001", "9", "warning"),
        ("PHANTOM001", "29", "warning"),
    ]


def test_an_image_in_two_studies_is_in_neither(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = pydicom.dcmread(image(tree, 9)).PixelData
    edited(tree / "dicoms" / "PHANTOM002" / "9.dcm", PixelData=copy)
    # A copy among unlabeled images does not matter.
    edited(tree / "dicoms" / "PHANTOM002" / "10.dcm", PixelData=copy)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 6}
    assert found_by(tmp_path / "records", "duplicate_image") == [
        ("PHANTOM001", "9", "error"),
        ("PHANTOM002", "9", "error"),
    ]


def test_every_reason_is_provoked() -> None:
    provoked = {reason for _, reasons, _, _ in AUDITED for reason in reasons}
    own_tests = {
        "unlabeled_images",
        "excluded",
        "unmatched_exclusion",
        "not_nested",
        "volume_order",
        "misregistered",
        "mixed_photometric",
        "changed_image",
        "changed_contour",
        "incomplete_volumes",
        "contours_of_other_images",
        "single_contour",
        # tests/test_sunnybrook.py
        "ambiguous_study",
        "other_contours",
        # tests/test_rtstruct.py
        "off_plane_contour",
        "same_patient",
        "several_parts",
        "unusable_roi",
        "unused_series",
    }
    assert provoked | own_tests == set(Reason)


def test_the_contour_of_the_phantom_beside_its_heart_is_the_only_implausible_one(phantom_records: pathlib.Path) -> None:
    study_id, number = phantom.MOVED
    assert found_by(phantom_records, "implausible_contour") == [(study_id, str(number), "warning")]
    scores = {
        (row["study_id"], int(row["instance_number"])): float(row["implausibility"])
        for row in read_table(phantom_records / "pairs.csv")
    }
    assert max(scores, key=lambda key: scores[key]) == phantom.MOVED


def test_a_study_with_x_and_y_exchanged_is_reported(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Its contours agree with each other; only the images show it."""
    tree = shutil.copytree(phantom_dir, tmp_path / "tree")
    for path in (tree / "contourfiles" / "PH-2").rglob("*.txt"):
        np.savetxt(path, np.loadtxt(path)[:, ::-1], "%.2f")
    run(Config(tree, tmp_path / "records"))
    assert ("PHANTOM002", "", "warning") in found_by(tmp_path / "records", "contours_of_other_images")
    assert not any(row[0] != "PHANTOM002" for row in found_by(tmp_path / "records", "contours_of_other_images"))


def test_unlabeled_images_are_counted_by_study(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "records"))
    assert [(row["study_id"], row["path"], row["detail"]) for row in audit_of(tmp_path / "records")] == [
        ("PHANTOM001", "dicoms/PHANTOM001", "1 of 5 images have no i-contour"),
        ("PHANTOM002", "dicoms/PHANTOM002", "1 of 5 images have no i-contour"),
    ]


def test_a_row_of_the_audit_excludes_its_pair_and_only_it(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside_image(tree)
    run(Config(tree, tmp_path / "first"))
    header, *rows = (tmp_path / "first" / "audit.csv").read_text().splitlines()
    (row,) = [row for row in rows if "outside_image" in row]
    (tmp_path / "exclude.csv").write_text(
        f"{header}\n{row}\nPHANTOM002,pair,,21,error,blurred,,,\nPHANTOM002,pair,,99,,,,,\n"
    )
    shutil.copy(tree / "contourfiles/PH-1/o-contours" / phantom.contour_name(1, "o"), contour(tree, 9))
    summary = run(Config(tree, tmp_path / "second", exclude=tmp_path / "exclude.csv"))
    assert summary.records == {"train": 6}
    excluded = [row for row in audit_of(tmp_path / "second") if row["reason"] == "excluded"]
    assert [(row["study_id"], row["instance_number"], row["level"], row["detail"]) for row in excluded] == [
        ("PHANTOM001", "9", "info", "left out by --exclude: outside_image"),
        ("PHANTOM002", "21", "info", "left out by --exclude: blurred"),
    ]
    assert summary.warnings["unmatched_exclusion"] == 1
    assert found_by(tmp_path / "second", "unmatched_exclusion") == [("PHANTOM002", "99", "warning")]


def test_a_warning_says_if_its_pair_is_excluded_already(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    study_id, number = phantom.MOVED
    (tmp_path / "exclude.csv").write_text(f"study_id,instance_number,reason\n{study_id},{number},moved\n")
    run(Config(phantom_dir, tmp_path / "records", exclude=tmp_path / "exclude.csv"))
    details = {
        (row["study_id"], row["instance_number"]): "; its pair is left out by --exclude" in row["detail"]
        for row in audit_of(tmp_path / "records")
        if row["reason"] == "implausible_contour"
    }
    assert details == {(study_id, str(number)): True}


def test_outer_contours_give_larger_masks(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "i"))
    run(Config(tree, tmp_path / "o", contours="o"))
    inner = {key: mask for key, _, mask in pairs_of(tmp_path / "i")}
    outer = {key: mask for key, _, mask in pairs_of(tmp_path / "o")}
    assert outer.keys() < inner.keys()
    assert all(outer[key].count(1) > inner[key].count(1) for key in outer)


def test_the_contour_origin_moves_masks_not_images(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for origin in ("corner", "center"):
        run(Config(tree, tmp_path / origin, contour_origin=origin))
    corner, center = pairs_of(tmp_path / "corner"), pairs_of(tmp_path / "center")
    assert all(one[:2] == other[:2] and one[2] != other[2] for one, other in zip(corner, center, strict=True))


@pytest.mark.parametrize("rule", ["val=PHANTOM9", "a:0.2,b:0.4,c:0.4"])
def test_a_split_of_studies_that_are_not_there_is_refused_before_images_are_read(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.setattr(plan, "examine", None)
    with pytest.raises(FatalInputError, match=r"can be(?: used)?: PHANTOM001, PHANTOM002"):
        run(Config(tree, tmp_path / "records", split=rule))


@pytest.mark.parametrize("contours", ["i", "io"])
def test_the_plan_takes_less_than_a_kilobyte_for_each_image_with_contours(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, contours: Literal["i", "io"]
) -> None:
    sizes = []

    def measured(*arguments: Any) -> plan.Plan:
        made = plan.make_plan(*arguments)
        images = {pair.image_path for one in made.selections for pair in one.inner}
        sizes.append((len(pickle.dumps(made)), len(images)))
        return made

    monkeypatch.setattr("preprocess.run.make_plan", measured)
    run(Config(phantom_dir, tmp_path / "records", contours=contours))
    ((size, images),) = sizes
    assert images == 36
    assert size <= 1000 * images


def test_a_misspelled_split_is_a_warning(
    tree: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(Config(tree, tmp_path / "records", split="trian")).records == {"trian": 8}
    assert "--split names a split trian; did you mean train?" in caplog.text


def test_splits_hold_whole_studies(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    summary = run(Config(tree, tmp_path / "records", split="train:0.5,val:0.5"))
    assert summary.records == {"train": 4, "val": 4}
    info = DatasetInfo.load(tmp_path / "records")
    assert sorted(study for split in info.splits.values() for study in split.studies) == ["PHANTOM001", "PHANTOM002"]
    for name, split in info.splits.items():
        (images, _) = next(iter(iterate_batches(tmp_path / "records", split=name, image_dtype=None)))
        stored = {
            pydicom.dcmread(path).pixel_array.tobytes() for path in (tree / "dicoms" / split.studies[0]).iterdir()
        }
        assert {image.tobytes() for image in images} < stored


def test_the_same_input_gives_the_same_bytes(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(Config(tree, tmp_path / "one", num_shards=2))
    # Another place, another listing order, another day.
    shutil.copytree(tree, tmp_path / "elsewhere" / "data")
    monkeypatch.setattr(os, "scandir", listing(lambda entries: entries.reverse()))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setattr("time.time", lambda: 0.0)
    run(Config(tmp_path / "elsewhere" / "data", tmp_path / "other", num_shards=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_values_that_are_not_whole_are_rounded_to_float32_and_said_so(
    tree: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    edited(image(tree, 9), RescaleSlope="0.1", RescaleIntercept="0")
    run(Config(tree, tmp_path / "records"))
    info = DatasetInfo.load(tmp_path / "records")
    assert (info.image_dtype, info.settings["exact_values"]) == (np.float32, False)
    assert "images are rounded to float32" in caplog.text
    (found,) = [data for key, data, _ in pairs_of(tmp_path / "records") if key == ("PHANTOM001", 9)]
    expected = (pydicom.dcmread(image(tree, 9)).pixel_array * 0.1).astype(np.float32)
    assert found == expected.tobytes()


def test_rescaled_integers_stay_integers(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    edited(image(tree, 9), RescaleSlope="2", RescaleIntercept="-100")
    run(Config(tree, tmp_path / "records"))
    info = DatasetInfo.load(tmp_path / "records")
    assert (info.image_dtype, info.settings["exact_values"]) == (np.int32, True)
    (found,) = [data for key, data, _ in pairs_of(tmp_path / "records") if key == ("PHANTOM001", 9)]
    expected = pydicom.dcmread(image(tree, 9)).pixel_array.astype(np.int32) * 2 - 100
    assert found == expected.tobytes()


def test_where_nothing_can_be_paired_nothing_is_published(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in (tree / "contourfiles").rglob("*.txt"):
        path.write_text("no contour\n")
    with pytest.raises(
        FatalInputError, match=r"no image could be paired with a contour\n  unreadable_contour: contourfiles/PH-1"
    ):
        run(Config(tree, tmp_path / "records"))
    assert not (tmp_path / "records").exists()


def test_a_split_that_is_left_empty_is_an_error(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in (tree / "dicoms" / "PHANTOM002").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FatalInputError, match="no image could be paired with a contour in split val"):
        run(Config(tree, tmp_path / "records", split="val=PHANTOM002"))
    assert not (tmp_path / "records").exists()


def test_strict_publishes_nothing_where_there_is_an_error(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run(Config(tree, tmp_path / "flawless", strict=True)).records == {"train": 8}
    cut_pixels(tree)
    with pytest.raises(
        FatalInputError, match=r"not published: errors left inputs out, and --strict is set\n  unreadable_image: .*9"
    ):
        run(Config(tree, tmp_path / "records", strict=True))
    assert not (tmp_path / "records").exists()


def test_nothing_of_a_header_leaves_it(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number, elements in (
        (1, {"PatientName": "CANARY^NAME", "InstitutionName": "CANARY", "StudyDate": "19770707"}),
        (9, {"PatientID": "CANARY", "PatientName": "CANARY"}),
        (21, {"PhotometricInterpretation": "CANARY"}),
    ):
        edited(image(tree, number), **elements)
    dataset = pydicom.dcmread(image(tree, 29))
    dataset.private_block(0x0011, "CANARY", create=True).add_new(1, "LO", "CANARY")
    dataset.preamble = b"CANARY".ljust(128)
    dataset.save_as(image(tree, 29))
    run(Config(tree, tmp_path / "records"))
    written = contents(tmp_path / "records")
    assert "header_mismatch" in written["audit.csv"].decode()
    write_report(tree, tmp_path / "records", tmp_path / "report")
    for name, content in {**written, **contents(tmp_path / "report")}.items():
        assert b"CANARY" not in content, name
        assert b"19770707" not in content, name
        # The report's index names the data.
        assert name == "index.html" or str(tmp_path).encode() not in content, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shards": 0}, "num_shards is 0, 1 to 99999 expected"),
        ({"max_image_pixels": 0}, "max_image_pixels is 0, at least 1 expected"),
        ({"split": "train:2"}, "fractions above 0 that add up to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(pathlib.Path("data"), pathlib.Path("records"), **settings)


def test_the_log_counts_one_study_as_one(
    tree: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\n")
    with caplog.at_level(logging.INFO, "preprocess"):
        run(Config(tree, tmp_path / "records"))
    files = sum(path.is_file() for path in tree.rglob("*"))
    assert f"{tree}: 1 study, {files} files" in caplog.messages
