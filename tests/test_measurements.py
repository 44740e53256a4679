import dataclasses
import math
import pathlib

import numpy as np
import pytest

from preprocess import phantom, tables
from preprocess.config import Config
from preprocess.geometry import polygons
from preprocess.geometry.masks import rasterize
from preprocess.model import NOWHERE, Place, PlannedPair, Study
from preprocess.quality import checks, measurements
from preprocess.quality.measurements import StudySummary, planned
from preprocess.quality.registration import Registration, bands
from preprocess.quality.volumes import Volumes
from preprocess.run import run

from .helpers.synthetic import header_of, synthetic_pair
from .helpers.tables import read_table
from .helpers.trees import edited

SQUARE = np.array([(1, 1), (5, 1), (5, 5), (1, 5)], float)


def disk(x: float, y: float, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return (x, y) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_areas_and_shares_are_those_computed_by_hand() -> None:
    assert polygons.area(SQUARE) == polygons.area(SQUARE[::-1]) == 16
    # A bow tie: its two triangles count, whichever way they turn.
    assert polygons.area(np.array([(0, 0), (4, 4), (4, 0), (0, 4)], float)) == 8
    # Twice around: the second turn does not undo the first.
    assert polygons.area(np.tile(SQUARE, (2, 1))) == 16
    assert polygons.share_outside(np.tile(SQUARE, (2, 1)), SQUARE + (1, 0)) == pytest.approx(0.25)
    assert polygons.share_outside(SQUARE, SQUARE + (1, 0)) == pytest.approx(0.25)
    assert polygons.share_outside(SQUARE, SQUARE * 2 - 1) == 0
    assert polygons.share_outside(SQUARE, SQUARE + 100) == 1
    assert polygons.crosses_itself(SQUARE[[0, 2, 1, 3]])
    assert not polygons.crosses_itself(SQUARE)


def test_bands_lie_one_to_three_pixels_from_the_edge() -> None:
    mask = np.zeros((30, 30), np.bool_)
    mask[10:20, 10:20] = True
    inside, ring = bands(mask)
    # Along the middle row the edges are at 10 and 20; pixel centers at half pixels.
    assert np.flatnonzero(inside[15]).tolist() == [11, 12, 17, 18]
    assert np.flatnonzero(ring[15]).tolist() == [7, 8, 21, 22]


@pytest.mark.parametrize("move", [(0, 0), (1, -2), (-1.5, 0.75)])
def test_registration_finds_a_known_move(move: tuple[float, float]) -> None:
    registration = Registration()
    for radius in (9, 12, 15):
        # The blood pool is where the contour would be after the move, with its edge pixels partly filled.
        fine = rasterize(disk(4 * (32 + move[0]), 4 * (32 + move[1]), 4 * radius), (256, 256))
        image = 100 + 300 * fine.reshape(64, 4, 64, 4).mean(axis=(1, 3))
        registration.add(image, rasterize(disk(32, 32, radius), (64, 64)))
    dx, dy, peak, rest = registration.peak()
    # The bands begin a pixel from the edge, so the curve is flat about its peak.
    assert (dx, dy) == pytest.approx(move, abs=0.75)
    assert peak >= rest > 0
    # Cubic interpolation overshoots a little beside a steep edge.
    assert peak == pytest.approx(300, abs=12)
    assert registration.curve().shape == (25, 25)


def test_registration_of_nothing_is_unknown() -> None:
    registration = Registration()
    # Too small to have a pixel that is one pixel inside its edge.
    registration.add(np.zeros((9, 9)), np.pad(np.ones((1, 1), np.bool_), 4))
    assert all(map(math.isnan, registration.peak()))
    assert np.isnan(registration.curve()).all()


def test_a_contour_that_lacks_points_at_its_end_is_open(phantom_dir: pathlib.Path) -> None:
    points = np.loadtxt(next(phantom_dir.rglob("*-icontour-manual.txt")))
    whole = rasterize(points, (256, 256))

    def is_open(polygon: np.ndarray) -> bool:
        return len(checks.open_contours([dataclasses.replace(synthetic_pair(1), polygon=polygon)])) == 1

    assert not is_open(points)
    # Where the outline is begins does not matter, nor does a last point that repeats the first.
    assert not is_open(np.vstack([points[50:], points[:51]]))
    for count in range(40, len(points), 5):
        mask = rasterize(points[:count], (256, 256))
        dice = 2 * (mask & whole).sum() / (mask.sum() + whole.sum())
        assert is_open(points[:count]) or dice > 0.99, count
    # The last number of 150.5 cut down to 1.
    assert is_open(np.vstack([points[:100], (points[100, 0], 1)]))


def test_few_points_at_uneven_distances_are_not_open() -> None:
    rng = np.random.default_rng(0)
    for count in (6, 8, 12):
        for _ in range(100):
            angles = (np.arange(count) + rng.uniform(-0.4, 0.4, count)) * 2 * np.pi / count
            polygon = 20 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            assert checks.open_contours([dataclasses.replace(synthetic_pair(1), polygon=polygon)]) == []


def placed(slice_index: int, phase_index: int, spacing: tuple[float, float] = (2.0, 1.5)) -> PlannedPair:
    pair = synthetic_pair(20 * slice_index + phase_index + 1, pixel_spacing_mm=spacing)
    return planned(dataclasses.replace(pair, slice_index=slice_index, phase_index=phase_index))


def test_volumes_are_those_computed_by_hand() -> None:
    areas = [(placed(0, 0), 100.0), (placed(1, 0), 50.0), (placed(0, 8), 60.0), (placed(1, 8), 55.0)]
    volumes = Volumes.of(areas, slice_spacing_mm=10)
    assert (volumes.end_diastole, volumes.end_systole) == (0, 8)
    # 150 and 115 pixels of 3 mm², 10 mm apart.
    assert (volumes.edv_ml, volumes.esv_ml) == pytest.approx((4.5, 3.45))
    assert volumes.stroke_ml == pytest.approx(1.05)
    assert volumes.ejection_fraction_percent == pytest.approx(100 * 1.05 / 4.5)
    (finding,) = checks.volume_order([pair for pair, _ in areas], volumes)
    assert finding.instance_number == 29
    assert "slice 1: 55.0 square pixels at end-systole (phase 8), 50.0 at end-diastole (phase 0)" in finding.detail


FULL = {(index, phase) for index in range(6) for phase in (0, 8)}


@pytest.mark.parametrize(
    ("absent", "unplaced", "missing"),
    [
        (set(), 0, {}),
        # A contour without an image, where no slice lacks one.
        (set(), 1, {}),
        # At end-systole the apex closes and the base moves; at end-diastole both are there.
        ({(0, 8), (5, 8)}, 0, {}),
        ({(0, 0), (5, 0)}, 0, {0: [0, 5]}),
        ({(5, 8)}, 1, {8: [5]}),
        ({(index, 8) for index in (0, 1, 4, 5)}, 0, {8: [0, 1, 4, 5]}),
        # A slice between contoured ones must have a cavity.
        ({(2, 0), (2, 8)}, 0, {0: [2], 8: [2]}),
        # With four of six lost, end-diastole stays where it is.
        ({(index, 0) for index in (0, 1, 4, 5)}, 0, {0: [0, 1, 4, 5]}),
    ],
)
def test_slices_that_lack_a_contour_make_volumes_incomplete(
    absent: set[tuple[int, int]], unplaced: int, missing: dict[int, list[int]]
) -> None:
    areas = [(placed(*place), 100.0 if place[1] == 0 else 60.0) for place in sorted(FULL - absent)]
    contoured = [*(Place(0, *place, math.nan) for place in FULL - absent), *[NOWHERE] * unplaced]
    volumes = Volumes.of(areas, 10, contoured)
    assert (volumes.end_diastole, volumes.end_systole) == (0, 8)
    assert volumes.missing == missing
    assert len(checks.incomplete_volumes(volumes, "A", "i-contours")) == bool(missing)


def test_contours_that_were_left_out_are_missing_at_any_phase() -> None:
    areas = [(placed(*place), 100.0 - 5 * place[1]) for place in sorted(FULL - {(5, 8)})]
    volumes = Volumes.of(areas, 10, [*(Place(0, *place, math.nan) for place in FULL), Place(0, 3, 4, math.nan)])
    assert volumes.missing == {4: [3], 8: [5]}
    (finding,) = checks.incomplete_volumes(volumes, "A", "i-contours")
    assert "slice 3 at phase 4; slice 5 at phase 8 (end-systole)" in finding.detail


def test_many_phases_with_missing_slices_are_counted() -> None:
    areas = [(placed(*place), 100.0 - 5 * place[1]) for place in sorted(FULL - {(5, 8)})]
    others = [Place(0, 3, phase, math.nan) for phase in range(20, 820)]
    volumes = Volumes.of(areas, 10, [*(Place(0, *place, math.nan) for place in FULL), *others])
    (finding,) = checks.incomplete_volumes(volumes, "A", "i-contours")
    assert "slice 5 at phase 8 (end-systole); slice 3 at phase 20; slice 3 at phase 21, and at 798 other phases" in (
        finding.detail
    )


@pytest.mark.parametrize(
    ("areas", "spacing"),
    [
        ([], 10),
        ([(placed(0, 0), 100.0)], 10),
        ([(placed(-1, -1), 100.0), (placed(-1, -1), 50.0)], 10),
        ([(placed(0, 0), 100.0), (placed(0, 8), 50.0)], math.nan),
        ([(placed(0, 0, (math.nan, math.nan)), 100.0), (placed(0, 8), 50.0)], 10),
    ],
)
def test_volumes_that_cannot_be_computed_are_nan(areas: list[tuple[PlannedPair, float]], spacing: float) -> None:
    volumes = Volumes.of(areas, spacing)
    assert (volumes.end_diastole, volumes.end_systole) == (-1, -1)
    assert math.isnan(volumes.edv_ml)
    assert math.isnan(volumes.ejection_fraction_percent)
    assert checks.volume_order([pair for pair, _ in areas], volumes) == []


def test_slice_spacing_is_that_of_the_stack_with_most_slices() -> None:
    headers = {number: header_of() for number in range(1, 6)}
    places = {number: Place(0, number, 0, 8.0 * number) for number in (1, 2, 3)}
    places |= {4: Place(1, 4, 0, 0.0), 5: Place(1, 5, 0, 3.0)}
    study = Study("A", "B", {}, {"i": {}, "o": {}}, None)
    summary = StudySummary.of(study, headers, places)
    assert summary.slice_spacing_mm == 8
    assert summary.slices == 5
    assert math.isnan(StudySummary.of(study, headers, {1: places[1]}).slice_spacing_mm)
    assert math.isnan(StudySummary.of(study, headers, {1: NOWHERE}).slice_spacing_mm)


def test_the_table_of_pairs_agrees_with_the_contours(phantom_records: pathlib.Path, phantom_dir: pathlib.Path) -> None:
    rows = read_table(phantom_records / "pairs.csv")
    assert len(rows) == 36
    for row in rows:
        points = np.loadtxt(phantom_dir / row["contour_path"])
        x, y = points.T
        shoelace = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert float(row["polygon_area_px"]) == pytest.approx(shoelace, rel=1e-5)
        assert int(row["points"]) == len(points)
        assert abs(float(row["area_difference_percent"])) < 1.5
        expected = 100 * (int(row["mask_area_px"]) / shoelace - 1)
        assert float(row["area_difference_percent"]) == pytest.approx(expected, abs=1e-3)
        if (row["study_id"], int(row["instance_number"])) != phantom.MOVED:
            assert float(row["mean_inside"]) > 380 > 150 > float(row["mean_ring"])
        assert (row["inner_inside_outer_percent"] == "100") == (int(row["phase_index"]) == 0)
        assert row["written"] == "1"


def test_the_table_of_studies_agrees_with_the_phantom(phantom_records: pathlib.Path) -> None:
    rows = read_table(phantom_records / "studies.csv")
    assert [row["study_id"] for row in rows] == ["PHANTOM001", "PHANTOM002", "PHANTOM003"]
    for row in rows:
        counted = [row[name] for name in ("images", "o_contours", "pairs", "slices", "phases", "slice_spacing_mm")]
        assert counted == ["120", "6", "12", "6", "20", "8"]
        assert (row["end_diastole_phase"], row["end_systole_phase"]) == ("0", "8")
        stroke = float(row["edv_ml"]) - float(row["esv_ml"])
        assert float(row["stroke_volume_ml"]) == pytest.approx(stroke, rel=1e-4)
        assert float(row["ejection_fraction_percent"]) == pytest.approx(100 * stroke / float(row["edv_ml"]), rel=1e-4)
        # The phantom's contours lie where its cavity is, in the default convention.
        dx, dy = float(row["registration_peak_dx_px"]), float(row["registration_peak_dy_px"])
        assert math.hypot(dx, dy) <= 0.75
        assert row["volumes_complete"] == "1"
        assert row["volumes_reliable"] == str(int(row["study_id"] != phantom.MOVED[0]))
    assert list(rows[0])[-9:] == [
        "end_systole_phase",
        "edv_ml",
        "esv_ml",
        "stroke_volume_ml",
        "ejection_fraction_percent",
        "volumes_complete",
        "volumes_reliable",
        "myocardium_volume_ml",
        "mass_g",
    ]


def test_missing_values_are_blank() -> None:
    row = measurements.unmeasured(planned(synthetic_pair(3)))
    (read,) = read_table(tables.dump([field.name for field in dataclasses.fields(row)], [dataclasses.astuple(row)]))
    assert (read["mask_area_px"], read["mean_ring"], read["written"]) == ("", "", "0")


def test_noise_in_the_cosines_leaves_the_volumes_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """If cosines were rounded, these two would fall on either side of an edge and split each slice."""
    for noise, name in ((0, "plain"), (2e-7, "noisy")):
        for path in (tree / "dicoms").rglob("*.dcm"):
            x = 0.7005 - 1e-7 + noise * (path.stem in ("9", "29"))
            edited(path, ImageOrientationPatient=[f"{x:.8f}", f"{math.sqrt(1 - x * x):.8f}", 0, 0, 0, -1])
        run(Config(tree, tmp_path / name))
    for name in ("pairs.csv", "studies.csv"):
        assert read_table(tmp_path / "noisy" / name) == read_table(tmp_path / "plain" / name)


@pytest.mark.parametrize("count", [3, 2000])
def test_rows_about_copies_name_a_few_of_them_and_count_all(count: int) -> None:
    pairs = [planned(synthetic_pair(number)) for number in range(count)]
    pairs = [
        dataclasses.replace(
            pair, image_path=f"{pair.instance_number:04d}.dcm", contour_path=f"{pair.instance_number:04d}.txt"
        )
        for pair in pairs
    ]
    found = {"dcm": checks.duplicate_images(pairs), "txt": checks.duplicate_contours(pairs, {})}
    for suffix, findings in found.items():
        assert len(findings) == count
        few = [f"{number:04d}.{suffix}" for number in range(1, 4)]
        others = ", ".join([*few, "1996 more"] if count == 2000 else few[:2])
        assert others in findings[0].detail
        assert f"0000.{suffix}, the first of {count} copies" in findings[-1].detail
        assert max(len(finding.detail) for finding in findings) < 150


def test_an_ejection_fraction_of_pixels_without_size_is_unknown() -> None:
    """A header may say any Pixel Spacing."""
    pairs = [
        dataclasses.replace(planned(synthetic_pair(phase, pixel_spacing_mm=(1e-200, 1e-200))), phase_index=phase)
        for phase in range(2)
    ]
    volumes = Volumes.of([(pair, 100.0) for pair in pairs], 8.0)
    assert volumes.edv_ml == 0
    assert math.isnan(volumes.ejection_fraction_percent)
