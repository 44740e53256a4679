"""The common grid: positions of pixels and contours, resampled values, and whole runs."""

import math
import pathlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pydicom
import pytest
import tensorflow as tf

from pipeline import DatasetInfo, verify
from preprocess import phantom
from preprocess.config import Config
from preprocess.findings import InputError
from preprocess.geometry import polygons
from preprocess.geometry.grid import Grid
from preprocess.geometry.masks import rasterize
from preprocess.model import Origin
from preprocess.report.page import write_report
from preprocess.run import run

from .helpers.records import pairs_of
from .helpers.synthetic import header_of
from .helpers.tables import audit_of, found_by, read_table
from .helpers.trees import contents, contour, edited, image

LIMIT = 1 << 24


def grid_of(
    shape: tuple[int, int],
    spacing_mm: tuple[float, float] = (1.5, 1.25),
    image_size: tuple[int, int] | None = None,
    pixel_spacing_mm: float | None = None,
) -> Grid:
    header = header_of(shape=shape, pixel_spacing_mm=spacing_mm)
    return Grid.of(header.shape, header.pixel_spacing_mm, image_size, pixel_spacing_mm, LIMIT)


grids = st.builds(
    grid_of,
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.none() | st.floats(0.3, 4),
)


def circle(center: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    return np.array(center) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_spacing_resamples_and_size_crops_or_pads_about_the_center() -> None:
    # 60 × 1.5 mm are 90, 50 × 1.25 mm are 62.5: in pixels of 2 mm 45 and, rounded, 31.
    spaced = grid_of((60, 50), pixel_spacing_mm=2)
    assert (spaced.shape, spaced.spacing_mm, spaced.scale) == ((45, 31), (2, 2), (0.625, 0.75))
    sized = grid_of((60, 50), image_size=(40, 64))
    assert (sized.shape, sized.spacing_mm, sized.scale, sized.offset) == ((40, 64), (1.5, 1.25), (1, 1), (7, -10))
    both = grid_of((60, 50), image_size=(40, 64), pixel_spacing_mm=2)
    assert (both.shape, both.spacing_mm, both.scale) == ((40, 64), (2, 2), (0.625, 0.75))
    for grid in (spaced, sized, both):
        center = grid.place(np.array([(25.0, 30.0)]))
        assert center == pytest.approx(np.array([grid.shape[::-1]]) / 2)


def _shoelace(polygon: np.ndarray) -> float:
    """The signed area, also of a polygon that intersects itself."""
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@hypothesis.given(grids, st.lists(st.tuples(st.floats(-5, 70), st.floats(-5, 70)), min_size=3, max_size=9))
def test_placed_points_can_be_moved_back(grid: Grid, points: list[tuple[float, float]]) -> None:
    polygon = np.array(points)
    placed = grid.place(polygon)
    assert (placed - grid.offset) / grid.scale == pytest.approx(polygon, abs=1e-9)
    # Areas scale with the product of the scales, and half a pixel is half a pixel of the source.
    ratio = grid.scale[0] * grid.scale[1]
    assert _shoelace(placed) == pytest.approx(_shoelace(polygon) * ratio, abs=1e-6)


@hypothesis.given(grids, st.integers(0, 2**32 - 1), st.sampled_from(["int16", "uint16", "int32", "float32"]))
def test_values_keep_their_dtype_and_never_leave_their_range(grid: Grid, seed: int, dtype: str) -> None:
    pixels = np.random.default_rng(seed).normal(200, 50, grid.source_shape).astype(dtype)
    resampled = grid.resample(pixels)
    assert (resampled.shape, resampled.dtype) == (grid.shape, np.dtype(dtype))
    assert pixels.min() <= resampled.min()
    assert resampled.max() <= pixels.max()


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_the_grid_of_the_image_gives_the_same_bytes(dtype: str) -> None:
    pixels = np.random.default_rng(0).normal(0, 1e4, (30, 44)).astype(dtype)
    for grid in (grid_of((30, 44)), grid_of((30, 44), (1.4, 1.4), (30, 44), 1.4)):
        assert grid.changes_nothing
        assert grid.resample(pixels).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("size", [(30, 44), (31, 43), (12, 90), (91, 13), (1, 1)])
def test_cropping_and_padding_keep_values(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(5, 999, (30, 44)).astype(np.int16)
    grid = grid_of((30, 44), (math.nan, math.nan), size)
    x, y = map(int, grid.offset)
    expected = np.full((200, 200), pixels.min())
    expected[100 : 100 + 30, 100 : 100 + 44] = pixels
    assert np.array_equal(grid.resample(pixels), expected[100 - y :, 100 - x :][: size[0], : size[1]])


# A ramp is sampled at pixel centers: an error of half a pixel would show as half of its slope.
@pytest.mark.parametrize("spacing", [0.4, 0.77, 1.0, 1.25, 1.5])
def test_a_ramp_has_the_values_that_its_formula_has_there(spacing: float) -> None:
    rows, columns = np.mgrid[:40, :52] + 0.5
    grid = grid_of((40, 52), (1.5, 1.5), pixel_spacing_mm=spacing)
    resampled = grid.resample((100 + 3 * columns - 2 * rows).astype(np.float32))
    down, across = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    x, y = (across - grid.offset[0]) / grid.scale[0], (down - grid.offset[1]) / grid.scale[1]
    # Within half a pixel of the edge there is no second neighbor.
    within = (x > 0.5) & (x < 51.5) & (y > 0.5) & (y < 39.5)
    assert within.mean() > 0.9
    assert resampled[within] == pytest.approx((100 + 3 * x - 2 * y)[within], abs=1e-4)


@pytest.mark.parametrize("spacing", [0.6, 1.0, 1.7, 2.5, 4.0])
def test_values_are_those_of_pillow(spacing: float) -> None:
    """Pillow is an independent reference, which also widens its filter where pixels become larger."""
    pixels = np.random.default_rng(1).normal(300, 80, (48, 60)).astype(np.float32)
    grid = grid_of((48, 60), (1.0, 1.0), pixel_spacing_mm=spacing)
    # Cropped by two pixels on either side, since Pillow's box has to lie within the image.
    size = grid.shape[0] - 4, grid.shape[1] - 4
    grid = grid_of((48, 60), (1.0, 1.0), size, spacing)
    box = np.array([(0, 0), size[::-1]])
    (left, top), (right, bottom) = (box - grid.offset) / grid.scale
    expected = PIL.Image.fromarray(pixels).resize(
        size[::-1], PIL.Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    # Pillow uses no pixels beyond its box, so the edges differ.
    ours, theirs = (values[3:-3, 3:-3] for values in (grid.resample(pixels), np.asarray(expected)))
    assert ours == pytest.approx(theirs, abs=1e-2)


def test_larger_pixels_do_not_alias() -> None:
    """Stripes finer than the target's pixels become gray; nearest neighbors would turn them into coarse stripes."""
    stripes = np.where(np.arange(96) % 2, 1000, 0).astype(np.float32) * np.ones((96, 1), np.float32)
    resampled = grid_of((96, 96), (1.0, 1.0), pixel_spacing_mm=2.9).resample(stripes)
    assert np.abs(resampled[2:-2, 2:-2] - 500).max() < 60


@pytest.mark.parametrize("spacing", [0.5, 0.9, 1.0, 1.6, 2.2])
@pytest.mark.parametrize("size", [None, (111, 140)])
def test_a_disc_and_its_contour_stay_together(spacing: float, size: tuple[int, int] | None) -> None:
    """The area in mm² is right to within the pixels on the outline, and the mask covers the disc in the image."""
    source_mm = 1.2, 0.9
    disc = circle((37.3, 41.6), 14)
    # The brightness of a pixel is the fraction that the disc covers, to a hundredth.
    y, x = (np.mgrid[:800, :720] + 0.5) / 10
    covered = np.hypot(x - 37.3, y - 41.6) < 14
    pixels = (1000 * covered.reshape(80, 10, 72, 10).mean(axis=(1, 3))).astype(np.int16)
    grid = grid_of((80, 72), source_mm, size, spacing)
    placed = grid.place(disc)
    mask = rasterize(placed, grid.shape)
    expected_mm2 = polygons.area(disc) * source_mm[0] * source_mm[1]
    assert polygons.area(placed) * spacing**2 == pytest.approx(expected_mm2)
    perimeter_mm = 2 * np.pi * 14 * 1.2
    assert abs(mask.sum() * spacing**2 - expected_mm2) < 0.25 * perimeter_mm * spacing
    # Both lie where the contour does: an error of half a pixel would show.
    bright = grid.resample(pixels).astype(float) / 1000
    down, across = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    for axis, place in ((across, placed[:, 0].mean()), (down, placed[:, 1].mean())):
        assert (axis * bright).sum() / bright.sum() == pytest.approx(place, abs=0.02)
        assert axis[mask].mean() == pytest.approx(place, abs=0.2)
    # They differ in a fraction of the pixels on the outline.
    assert ((bright > 0.5) != mask).sum() < 0.25 * perimeter_mm / spacing


def test_a_mask_is_drawn_where_a_resampled_one_is_lost() -> None:
    """A sliver covers less than half of every source pixel, but more than half of some target pixels."""
    sliver = np.array([(4.0, 6.2), (26.0, 6.2), (26.0, 6.6), (4.0, 6.6), (4.0, 14.0), (3.0, 14.0), (3.0, 6.2)])
    grid = grid_of((20, 30), (1.0, 1.0), pixel_spacing_mm=0.2)
    drawn = rasterize(grid.place(sliver), grid.shape)
    source = rasterize(sliver, (20, 30)).astype(np.float32)
    exact = polygons.area(sliver)
    assert drawn.sum() * 0.04 == pytest.approx(exact, rel=1e-9)
    for interpolation in (cv2.INTER_NEAREST, cv2.INTER_LINEAR):
        resampled = cv2.resize(source, grid.shape[::-1], interpolation=interpolation) > 0.5
        assert resampled.sum() * 0.04 < 0.6 * exact


@pytest.mark.parametrize("spacing_mm", [(math.nan, math.nan), (1.5, 0.0), (-1.0, 1.0)])
def test_a_missing_spacing_is_refused_where_it_is_needed(spacing_mm: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"Pixel Spacing \(0028,0030\) is missing.*do not pass --pixel") as raised:
        grid_of((20, 20), spacing_mm, pixel_spacing_mm=1)
    assert raised.value.reason == "unsupported_image"
    assert grid_of((20, 20), spacing_mm, image_size=(8, 8)).shape == (8, 8)


def test_a_grid_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(InputError, match=r"makes it 150000 × 125000 pixels, at most 16777216 expected") as raised:
        grid_of((100, 100), pixel_spacing_mm=0.001)
    assert raised.value.reason == "unsupported_image"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (0, 9)}, r"image_size is 0x9, 1x1 to 16777216 pixels"),
        ({"image_size": (9000, 9000)}, r"image_size is 9000x9000, 1x1 to 16777216 pixels"),
        ({"pixel_spacing_mm": 0.0}, r"pixel_spacing_mm is 0, 0.001 to 1000 expected"),
        ({"pixel_spacing_mm": math.nan}, r"pixel_spacing_mm is nan, 0.001 to 1000 expected"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(pathlib.Path("data"), pathlib.Path("records"), **settings)


def spacings_of(records: pathlib.Path) -> set[tuple[float, ...]]:
    """Pixel spacing of every record, read by TensorFlow."""
    return {
        tuple(tf.train.Example.FromString(data).features.feature["meta/pixel_spacing_mm"].float_list.value)
        for path in records.glob("*.tfrecord-?????-of-?????")
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    }


def test_the_grid_of_the_images_changes_the_manifest_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spacing = float(pydicom.dcmread(image(tree, 9)).PixelSpacing[0])
    for path in (tree / "dicoms").rglob("*.dcm"):
        edited(path, PixelSpacing=[spacing, spacing])
    run(Config(tree, tmp_path / "off"))
    run(Config(tree, tmp_path / "own", image_size=(256, 256), pixel_spacing_mm=spacing))
    off, own = contents(tmp_path / "off"), contents(tmp_path / "own")
    manifests = off.pop("manifest.json"), own.pop("manifest.json")
    assert off == own
    assert [b"image_size" in manifest or b"pixel_spacing_mm" in manifest for manifest in manifests] == [False, True]


@pytest.mark.parametrize("origin", ["corner", "center"])
def test_studies_of_unequal_size_have_one_shape_on_one_grid(
    tree: pathlib.Path, tmp_path: pathlib.Path, origin: Origin
) -> None:
    """One study is cropped to 224 × 240 pixels of another size: a mismatch, unless both have a common grid."""
    for path in (tree / "dicoms" / "PHANTOM002").iterdir():
        pixels = pydicom.dcmread(path).pixel_array[:224, :240]
        edited(path, Rows=224, Columns=240, PixelData=pixels.tobytes(), PixelSpacing=[1.1, 1.3])
    run(Config(tree, tmp_path / "off", contour_origin=origin))
    assert len(found_by(tmp_path / "off", "size_mismatch")) == 4
    records = tmp_path / "records"
    config = Config(tree, records, contour_origin=origin, image_size=(200, 192), pixel_spacing_mm=1.4)
    assert run(config).records == {"train": 8}
    assert list(verify.faults(records)) == []
    info = DatasetInfo.load(records)
    assert (info.image_shape, info.image_dtype) == ((200, 192, 1), np.int16)
    assert (info.settings["image_size"], info.settings["pixel_spacing_mm"]) == ([200, 192], 1.4)
    assert spacings_of(records) == {(float(np.float32(1.4)),) * 2}
    # Each mask is drawn from the moved contour.
    for (study, number), stored, mask in pairs_of(records):
        dataset = pydicom.dcmread(tree / "dicoms" / study / f"{number}.dcm")
        folder = tree / "contourfiles" / study.replace("PHANTOM00", "PH-") / "i-contours"
        polygon = np.loadtxt(folder / phantom.contour_name(number, "i"))
        grid = grid_of(
            (dataset.Rows, dataset.Columns),
            (float(dataset.PixelSpacing[0]), float(dataset.PixelSpacing[1])),
            (200, 192),
            1.4,
        )
        placed = grid.place(polygon + 0.5 if origin == "center" else polygon)
        assert mask == rasterize(placed, (200, 192)).tobytes()
        assert stored == grid.resample(dataset.pixel_array).tobytes()
    # The tables describe the studies as in their files, and the masks as written.
    assert read_table(records / "studies.csv")[1] == read_table(tmp_path / "off" / "studies.csv")[1]
    for row, (_, _, mask) in zip(read_table(records / "pairs.csv"), pairs_of(records), strict=True):
        assert int(row["mask_area_px"]) == mask.count(1)
        assert abs(float(row["area_difference_percent"])) < 3
    # The report draws a contour for every record.
    index = write_report(tree, records, tmp_path / "report")
    pages = [path.read_text("utf-8") for path in index.parent.rglob("*.html")]
    assert sum(page.count("<figure id=") for page in pages) == 8


def test_a_study_of_another_shape_at_one_spacing_is_a_mismatch(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    edited(image(tree, 9), PixelSpacing=[1.0, 2.0])
    for path in (tree / "dicoms").rglob("*.dcm"):
        if path != image(tree, 9):
            edited(path, PixelSpacing=[1.25, 1.25])
    run(Config(tree, tmp_path / "records", pixel_spacing_mm=2.0))
    assert DatasetInfo.load(tmp_path / "records").image_shape == (160, 160, 1)
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "size_mismatch"]
    assert row["detail"].startswith("128 × 256 pixels, 160 × 160 expected")


def test_an_image_without_the_spacing_that_is_needed_is_left_out(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    edited(image(tree, 9), PixelSpacing=None)
    assert run(Config(tree, tmp_path / "records", pixel_spacing_mm=2.0, image_size=(128, 128))).records == {"train": 7}
    found = [("PHANTOM001", "9", "error")]
    assert found_by(tmp_path / "records", "unsupported_image") == found_by(tmp_path / "records", "no_image") == found
    assert run(Config(tree, tmp_path / "sized", image_size=(128, 128))).records == {"train": 8}


def test_a_contour_that_is_cropped_away_costs_its_pair_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Only its pair is lost; the measurements of the study still use it."""
    np.savetxt(contour(tree, 9), np.loadtxt(contour(tree, 9)) + (70, 0), "%.2f")
    run(Config(tree, tmp_path / "off"))
    assert run(Config(tree, tmp_path / "records", image_size=(160, 160))).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "outside_image"]
    assert (row["study_id"], row["instance_number"], row["level"]) == ("PHANTOM001", "9", "error")
    assert "on the common grid x " in row["detail"]
    assert "enlarge --image_size" in row["detail"]
    off, cropped = (read_table(tmp_path / name / "studies.csv")[0] for name in ("off", "records"))
    assert (off.pop("pairs"), cropped.pop("pairs")) == ("4", "3")
    assert off == cropped
