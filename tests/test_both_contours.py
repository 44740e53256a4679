"""Whole runs with ``--contours=io``: label maps of images that have both contours."""

import json
import math
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
import shapely

from pipeline import DatasetInfo, Records, iterate_batches, make_dataset, verify
from pipeline.__main__ import describe
from preprocess import phantom
from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.model import Contours
from preprocess.report.page import write_report
from preprocess.run import run

from .helpers.records import pairs_of
from .helpers.shares import exact_shares
from .helpers.tables import audit_of, found_by, read_table
from .helpers.trees import contents, contour, image, zipped

CLASSES = ("outside", "blood pool", "myocardium")


def outer(tree: pathlib.Path, number: int) -> pathlib.Path:
    """An o-contour of the first study."""
    return tree / "contourfiles" / "PH-1" / "o-contours" / phantom.contour_name(number, "o")


def contours_of(data_dir: pathlib.Path) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Inner and outer contour of each image that has both, by study and number; read by NumPy alone."""
    links = [line.split(",") for line in next(data_dir.rglob("link.csv")).read_text().split()[1:]]
    found = {}
    for study_id, contour_id in links:
        for path in sorted(data_dir.rglob(f"{contour_id}/o-contours/IM-*-ocontour-manual.txt")):
            inner = path.parent.parent / "i-contours" / path.name.replace("ocontour", "icontour")
            if inner.exists():
                found[study_id, int(path.name[8:12])] = np.loadtxt(inner), np.loadtxt(path)
    return found


def label_maps(records: pathlib.Path) -> dict[tuple[str, int], np.ndarray]:
    """The label map of every record, by study and number; decoded by TensorFlow."""
    shape = DatasetInfo.load(records).image_shape[:2]
    return {key: np.frombuffer(mask, np.uint8).reshape(shape) for key, _, mask in pairs_of(records)}


def shortfall(labels: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> float:
    """How much less of a pixel its class covers than the class that covers most, at worst."""
    shares = exact_shares(inner, outer, labels.shape)
    own = np.take_along_axis(shares, labels[None].astype(np.intp), axis=0)[0]
    return float((shares.max(axis=0) - own).max())


@pytest.fixture(scope="module")
def real_maps(real_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("both") / "real"
    run(Config(real_data, path, contours="io"))
    return path


def test_each_pixel_of_the_phantom_has_the_class_that_covers_most_of_it(
    phantom_label_maps: pathlib.Path, phantom_dir: pathlib.Path
) -> None:
    maps, contours = label_maps(phantom_label_maps), contours_of(phantom_dir)
    assert maps.keys() == contours.keys()
    assert len(maps) == 18
    for key, labels in maps.items():
        assert shortfall(labels, *contours[key]) < 0.13, key
        assert set(np.unique(labels)) == {0, 1, 2}
    assert list(verify.faults(phantom_label_maps)) == []


def test_no_pixel_of_the_real_label_maps_is_wrong(real_maps: pathlib.Path, real_data: pathlib.Path) -> None:
    maps, contours = label_maps(real_maps), contours_of(real_data)
    assert maps.keys() == contours.keys()
    assert len(maps) == 37
    for key, labels in maps.items():
        assert shortfall(labels, *contours[key]) < 1e-9, key
    assert list(verify.faults(real_maps)) == []


def test_the_command_names_the_classes(phantom_label_maps: pathlib.Path, phantom_records: pathlib.Path) -> None:
    lines = [list(describe(Records(path)))[1] for path in (phantom_label_maps, phantom_records)]
    assert lines == [
        "images 256 × 256, int16; label maps uint8 (0 outside, 1 blood pool, 2 myocardium)",
        "images 256 × 256, int16; masks bool",
    ]


def test_images_are_those_of_the_runs_with_one_contour(
    phantom_label_maps: pathlib.Path, phantom_records: pathlib.Path
) -> None:
    alone = {key: pixels for key, pixels, _ in pairs_of(phantom_records)}
    for key, pixels, _ in pairs_of(phantom_label_maps):
        assert pixels == alone[key]


def test_every_reader_gives_label_maps_as_they_are_stored(phantom_label_maps: pathlib.Path) -> None:
    info = DatasetInfo.load(phantom_label_maps)
    assert info.mask_classes == CLASSES
    stored = {mask for _, _, mask in pairs_of(phantom_label_maps)}
    for batches in (
        iterate_batches(phantom_label_maps, "train", seed=1, epochs=1, batch_size=4),
        make_dataset(phantom_label_maps, "train", seed=1, epochs=1, batch_size=4).as_numpy_iterator(),
    ):
        masks = [mask for _, batch in batches for mask in batch]
        assert {mask.dtype for mask in masks} == {np.dtype(np.uint8)}
        assert {mask.tobytes() for mask in masks} <= stored
        assert len(masks) == 12
    records = Records(phantom_label_maps)
    masks = [records[index][1] for index in range(len(records))]
    areas = [int((mask == 1).sum()) for mask in masks]
    assert records.table["mask_area_px"].tolist() == areas


def test_a_zip_archive_and_two_workers_give_the_same_bytes(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "one", contours="io"))
    run(Config(zipped(tree, tmp_path / "tree.zip"), tmp_path / "two", contours="io", workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_contours_from_the_center_of_a_pixel_are_moved_by_half_of_it(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(Config(tree, tmp_path / "records", contours="io", contour_origin="center"))
    contours = contours_of(tree)
    for key, labels in label_maps(tmp_path / "records").items():
        assert shortfall(labels, *(points + 0.5 for points in contours[key])) < 0.13


def test_both_contours_are_placed_on_a_common_grid(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "plain", contours="io"))
    run(Config(tree, tmp_path / "cut", contours="io", image_size=(128, 160)))
    run(Config(tree, tmp_path / "fine", contours="io", pixel_spacing_mm=1.0, image_size=(200, 200)))
    plain, cut, fine = (label_maps(tmp_path / name) for name in ("plain", "cut", "fine"))
    contours = contours_of(tree)
    for study_id, number in plain:
        key = study_id, number
        rows, columns = plain[key].shape
        top, left = (rows - 128) // 2, (columns - 160) // 2
        assert np.array_equal(cut[key], plain[key][top : top + 128, left : left + 160])
        spacing = pydicom.dcmread(tree / "dicoms" / study_id / f"{number}.dcm").PixelSpacing
        scale = np.array([float(spacing[1]), float(spacing[0])])
        moved = (np.array([200, 200]) - np.array([columns, rows]) * scale) / 2
        assert shortfall(fine[key], *(points * scale + moved for points in contours[key])) < 0.13
        assert fine[key].shape == (200, 200)


def test_a_grid_that_is_too_small_names_the_outer_contour(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The inner contour fits on it."""
    contours = contours_of(tree)
    reach = {key: [float(np.abs(points - 128).max()) for points in pair] for key, pair in contours.items()}
    inner_reach, outer_reach = (max(values[index] for values in reach.values()) for index in (0, 1))
    assert inner_reach + 1 < outer_reach - 1
    size = 2 * math.ceil(inner_reach)
    (key,) = [key for key in reach if reach[key][1] == outer_reach][:1]
    run(Config(tree, tmp_path / "records", contours="io", image_size=(size, size)))
    rows = [row for row in audit_of(tmp_path / "records") if row["reason"] == "outside_image"]
    assert {row["contour"] for row in rows} == {"o"}
    assert key in {(row["study_id"], int(row["instance_number"])) for row in rows}
    assert all("on the common grid" in row["detail"] for row in rows)


def broken(tree: pathlib.Path) -> None:
    outer(tree, 1).write_text("1 2\n3\n")


def beyond_the_image(tree: pathlib.Path) -> None:
    np.savetxt(outer(tree, 1), np.vstack([np.loadtxt(outer(tree, 1)), (900, 900)]))


def equal_to_the_inner(tree: pathlib.Path) -> None:
    outer(tree, 1).write_bytes(contour(tree, 1).read_bytes())


def broken_inner(tree: pathlib.Path) -> None:
    contour(tree, 1).write_text("1 2\n3\n")


def twice(tree: pathlib.Path) -> None:
    outer(tree, 1).with_name("IM-0002-0001-ocontour-manual.txt").write_bytes(outer(tree, 1).read_bytes())


def without_image(tree: pathlib.Path) -> None:
    image(tree, 1).unlink()


def cut_pixels(tree: pathlib.Path) -> None:
    image(tree, 1).write_bytes(image(tree, 1).read_bytes()[:-10])


@pytest.mark.parametrize(
    ("flaw", "found"),
    [
        (broken, {("unreadable_contour", "o")}),
        (beyond_the_image, {("outside_image", "o")}),
        (equal_to_the_inner, {("degenerate_contour", "o")}),
        (broken_inner, {("unreadable_contour", "i")}),
        (twice, {("duplicate_contour", "o")}),
        (without_image, {("no_image", "i"), ("no_image", "o")}),
        (cut_pixels, {("no_image", "i"), ("no_image", "o"), ("unreadable_image", "")}),
    ],
)
def test_an_error_about_either_contour_costs_the_pair(
    tree: pathlib.Path, tmp_path: pathlib.Path, flaw: Callable[[pathlib.Path], None], found: set[tuple[str, str]]
) -> None:
    flaw(tree)
    summary = run(Config(tree, tmp_path / "records", contours="io"))
    assert summary.records == {"train": 3}
    errors = [row for row in audit_of(tmp_path / "records") if row["level"] == "error"]
    assert {(row["reason"], row["contour"]) for row in errors} == found
    assert {(row["study_id"], row["instance_number"], row["left_out"]) for row in errors} == {("PHANTOM001", "1", "1")}
    assert sum(summary.left_out.values()) == 1
    assert summary.harmless == {}
    # The file is there, so the other contour is not the only one.
    assert [
        row["detail"].split(";")[0] for row in audit_of(tmp_path / "records") if row["reason"] == "single_contour"
    ] == ["2 images with only an i-contour"] * 2
    with pytest.raises(FatalInputError, match="errors left inputs out, and --strict is set"):
        run(Config(tree, tmp_path / "strict", contours="io", strict=True))
    header, *rows = (tmp_path / "records" / "audit.csv").read_text().splitlines(keepends=True)
    (tmp_path / "exclude.csv").write_text("".join([header, *(row for row in rows if ",error," in row)]))
    accepted = run(Config(tree, tmp_path / "ok", contours="io", strict=True, exclude=tmp_path / "exclude.csv"))
    assert (accepted.records, accepted.left_out, accepted.excluded) == ({"train": 3}, {}, 1)


def test_an_outer_contour_that_fails_leaves_the_volumes_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "before"))
    beyond_the_image(tree)
    run(Config(tree, tmp_path / "after", contours="io"))
    (before, after) = (read_table(tmp_path / name / "studies.csv")[0] for name in ("before", "after"))
    for name in ("edv_ml", "esv_ml", "registration_peak", "volumes_complete"):
        assert after[name] == before[name]


def test_an_image_with_one_contour_is_counted_once_a_study(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outer(tree, 1).unlink()
    contour(tree, 21).unlink()
    assert run(Config(tree, tmp_path / "records", contours="io", strict=True)).records == {"train": 2}
    rows = [row for row in audit_of(tmp_path / "records") if row["reason"] == "single_contour"]
    assert [(row["study_id"], row["kind"], row["level"], row["path"], row["detail"].split(";")[0]) for row in rows] == [
        (
            "PHANTOM001",
            "study",
            "info",
            "contourfiles/PH-1",
            "3 images with only an i-contour and 1 image with only an o-contour",
        ),
        ("PHANTOM002", "study", "info", "contourfiles/PH-2", "2 images with only an i-contour"),
    ]
    for contours in ("i", "o"):
        run(Config(tree, tmp_path / contours, contours=contours))
        assert found_by(tmp_path / contours, "single_contour") == []


def test_exclusions_of_either_contour_exclude_the_pair(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "exclude.csv").write_text(
        "study_id,instance_number,reason,contour\n"
        "PHANTOM001,1,blurred,i\nPHANTOM001,21,blurred,o\nPHANTOM002,1,blurred,\n"
        # An image with one contour, and one with none.
        "PHANTOM002,9,blurred,i\nPHANTOM002,10,blurred,i\n"
    )
    summary = run(Config(tree, tmp_path / "records", contours="io", exclude=tmp_path / "exclude.csv"))
    assert (summary.records, summary.excluded, summary.left_out) == ({"train": 1}, 3, {})
    assert [key for key, _, _ in pairs_of(tmp_path / "records")] == [("PHANTOM002", 21)]
    assert found_by(tmp_path / "records", "unmatched_exclusion") == [("PHANTOM002", "10", "warning")]
    # The audit of such a run is a list of exclusions, too.
    again = run(Config(tree, tmp_path / "again", contours="io", exclude=tmp_path / "records" / "audit.csv"))
    assert (again.records, again.excluded) == ({"train": 1}, 3)


@pytest.mark.parametrize(("dx", "level", "written"), [(10.5, "warning", 4), (14, "error", 3)])
def test_what_leaves_the_outer_contour_is_blood_pool_until_it_is_too_much(
    tree: pathlib.Path, tmp_path: pathlib.Path, dx: float, level: str, written: int
) -> None:
    np.savetxt(contour(tree, 21), np.loadtxt(contour(tree, 21)) + (dx, 0), "%.2f")
    assert run(Config(tree, tmp_path / "records", contours="io")).records == {"train": written}
    assert found_by(tmp_path / "records", "not_nested") == [("PHANTOM001", "21", level)]
    labels = label_maps(tmp_path / "records").get(("PHANTOM001", 21))
    if level == "error":
        assert labels is None
        assert read_table(tmp_path / "records" / "studies.csv")[0]["mass_g"] == ""
    else:
        assert labels is not None
        inside, around = np.loadtxt(contour(tree, 21)), np.loadtxt(outer(tree, 21))
        beyond = exact_shares(around, inside, labels.shape)[2] > 0.51
        assert beyond.any()
        assert (labels[beyond] == 1).all()


def test_the_myocardium_is_measured_whatever_is_written(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outer(tree, 21).unlink()
    kinds: tuple[Contours, ...] = ("i", "o", "io")
    for kind in kinds:
        run(Config(tree, tmp_path / kind, contours=kind))
    pairs = {
        kind: {(row["study_id"], int(row["instance_number"])): row for row in read_table(tmp_path / kind / "pairs.csv")}
        for kind in kinds
    }
    contours = contours_of(tree)
    for key, row in pairs["i"].items():
        if key not in contours:
            assert (row["myocardium_area_mm2"], row["wall_thickness_mm"]) == ("", "")
            continue
        header = pydicom.dcmread(tree / "dicoms" / key[0] / f"{key[1]}.dcm")
        mm2 = float(header.PixelSpacing[0]) * float(header.PixelSpacing[1])
        inside, around = map(shapely.Polygon, contours[key])
        assert float(row["myocardium_area_mm2"]) == pytest.approx(around.difference(inside).area * mm2, rel=1e-5)
        radii = [math.sqrt(shape.area * mm2 / math.pi) for shape in (inside, around)]
        assert float(row["wall_thickness_mm"]) == pytest.approx(radii[1] - radii[0], rel=1e-4)
        for kind in kinds[1:]:
            for name in ("myocardium_area_mm2", "wall_thickness_mm"):
                assert pairs[kind][key][name] == row[name]
    studies = {kind: read_table(tmp_path / kind / "studies.csv") for kind in kinds}
    for rows in studies.values():
        # The first study lacks the outer contour of a slice at end-diastole: a sum without it is too small.
        assert [row["mass_g"] == "" for row in rows] == [True, False]
        assert [row["myocardium_volume_ml"] == "" for row in rows] == [True, False]
        areas = [float(pairs["i"]["PHANTOM002", number]["myocardium_area_mm2"]) for number in (1, 21)]
        volume = sum(areas) * float(rows[1]["slice_spacing_mm"]) / 1000
        assert float(rows[1]["myocardium_volume_ml"]) == pytest.approx(volume, rel=1e-4)
        assert float(rows[1]["mass_g"]) == pytest.approx(1.05 * volume, rel=1e-4)
    table = Records(tmp_path / "io").table
    assert table["myocardium_area_mm2"].tolist() == pytest.approx(
        [float(row["myocardium_area_mm2"]) for row in pairs["io"].values()], rel=1e-5
    )


@pytest.mark.parametrize(
    "points", [[(10, 10), (20, 20), (30, 30)], [(1e9, 1e9), (2e9, 1e9), (1e9, 2e9)], [(1e150, 0), (0, 1e150), (0, 0)]]
)
def test_an_outer_contour_of_any_points_costs_its_pair_at_most(
    tree: pathlib.Path, tmp_path: pathlib.Path, points: list[tuple[float, float]]
) -> None:
    np.savetxt(outer(tree, 1), points)
    assert run(Config(tree, tmp_path / "records", contours="io")).records == {"train": 3}
    assert run(Config(tree, tmp_path / "inner")).left_out == {}


def test_masses_of_the_real_studies_are_possible(real_maps: pathlib.Path) -> None:
    rows = read_table(real_maps / "studies.csv")
    masses = [float(row["mass_g"]) for row in rows]
    assert all(60 < mass < 350 for mass in masses)
    assert masses == pytest.approx([116.8, 141.8, 132.1, 115.5], abs=0.1)
    assert [int(row["pairs"]) for row in rows] == [9, 9, 10, 9]


def test_features_and_version_are_those_of_label_maps(phantom_label_maps: pathlib.Path) -> None:
    info = DatasetInfo.load(phantom_label_maps)
    assert (info.mask_classes, info.settings["contours"]) == (CLASSES, "io")
    features = json.loads((phantom_label_maps / "features.json").read_text())
    assert features["featuresDict"]["features"]["mask"]["tensor"]["dtype"] == "uint8"
    assert json.loads((phantom_label_maps / "dataset_info.json").read_text())["version"] == "2.0.0"


def test_the_report_shows_both_contours_and_the_edges_of_both_classes(
    phantom_dir: pathlib.Path, phantom_label_maps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    index = write_report(phantom_dir, phantom_label_maps, tmp_path / "report")
    assert "(inner and outer contours)" in index.read_text("utf-8")
    page = (tmp_path / "report" / "studies" / "0001.html").read_text("utf-8")
    figures = page.split("<figure")[1:]
    shown = [figure for figure in figures if 'class="contour own outer"' in figure]
    assert len(shown) >= 6
    assert all('class="contour own inner"' in figure for figure in shown)
    assert "myocardial mass at end-diastole" in page
    for text in (page, index.read_text("utf-8")):
        assert "blood pool" in text
        # The word is left to names in the style sheet, the script and the markup.
        shown_text = re.sub(r"<(style|script).*?</\1>|<!--.*?-->|<(?!svg)[^>]*>", " ", text, flags=re.DOTALL)
        assert not re.search(r"\bmasks?\b", shown_text, re.IGNORECASE)
    assert "The myocardium at end-diastole, by slice." in page
