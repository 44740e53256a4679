import math
import pathlib

import numpy as np
import pydicom
import pytest
import shapely
from scipy import special

from preprocess.geometry import polygons
from preprocess.geometry.labels import label_map
from preprocess.quality import myocardium

STUDIES = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000301": "SC-HF-I-4", "SCD0000401": "SC-HF-I-5"}


def ellipse(a: float, b: float, center: tuple[float, float] = (100, 100), points: int = 5000) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([center[0] + a * np.cos(angles), center[1] + b * np.sin(angles)], axis=1)


def around(polygon: np.ndarray, distance: float) -> np.ndarray:
    """The curve at a distance from a convex one."""
    grown = shapely.buffer(shapely.Polygon(polygon), distance, quad_segs=200)
    return shapely.get_coordinates(grown)[:-1]


def real_pairs(real_data: pathlib.Path, contour_id: str) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Instance number, inner and outer contour of each image of a study that has both."""
    root = real_data / "contourfiles" / contour_id
    return [
        (
            int(path.name[8:12]),
            np.loadtxt(root / "i-contours" / path.name.replace("ocontour", "icontour")),
            np.loadtxt(path),
        )
        for path in sorted((root / "o-contours").iterdir())
    ]


def test_the_area_is_that_between_both_contours_in_mm2() -> None:
    area = myocardium.area_mm2(ellipse(20, 20), ellipse(30, 30), (1.5, 1.25))
    assert area == pytest.approx(math.pi * (30**2 - 20**2) * 1.5 * 1.25, rel=1e-5)


def test_the_part_of_an_inner_contour_outside_the_outer_one_is_not_subtracted() -> None:
    inner = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
    outer = np.array([(1, 0), (9, 0), (9, 4), (1, 4)], float)
    assert myocardium.area_mm2(inner, outer, (1, 1)) == pytest.approx(8 * 4 - 3 * 4)


def test_without_an_outer_contour_or_a_spacing_nothing_is_known() -> None:
    area = myocardium.area_mm2(ellipse(20, 20), None, (1, 1))
    assert math.isnan(area)
    assert math.isnan(myocardium.area_mm2(ellipse(20, 20), ellipse(30, 30), (math.nan, math.nan)))
    assert math.isnan(myocardium.thickness_mm(400, area))
    assert math.isnan(myocardium.mass_g(myocardium.volume_ml([500, area, 400], 8)))
    assert math.isnan(myocardium.volume_ml([500, 400], math.nan))
    assert math.isnan(myocardium.volume_ml([], 8))


def thickness(inner: np.ndarray, outer: np.ndarray) -> float:
    cavity = polygons.area(inner)
    return myocardium.thickness_mm(cavity, myocardium.area_mm2(inner, outer, (1, 1)))


@pytest.mark.parametrize("center", [(100, 100), (103, 98)])
def test_the_thickness_between_circles_is_the_difference_of_their_radii(center: tuple[float, float]) -> None:
    assert thickness(ellipse(25, 25, center), ellipse(34, 34)) == pytest.approx(9, rel=1e-5)


def test_the_thickness_of_an_even_wall_around_an_ellipse_is_at_most_one_percent_too_large() -> None:
    a, b, wall = 28, 22, 10
    found = thickness(ellipse(a, b), around(ellipse(a, b), wall))
    # Steiner's formula: a wall of this thickness around a convex curve has this area.
    perimeter = 4 * a * special.ellipe(1 - (b / a) ** 2)
    outer_area = math.pi * a * b + perimeter * wall + math.pi * wall**2
    assert found == pytest.approx(math.sqrt(outer_area / math.pi) - math.sqrt(a * b), rel=1e-4)
    assert wall < found < 1.01 * wall


def centerline_thickness(inner: np.ndarray, outer: np.ndarray) -> float:
    """Mean length of 100 chords across the smoothed line midway between both contours."""
    rings = [shapely.LinearRing(contour) for contour in (inner, outer)]
    center = shapely.get_coordinates(shapely.Polygon(inner).centroid)[0]
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rays = shapely.linestrings(np.stack([np.broadcast_to(center, (720, 2)), center + 200 * directions], axis=1))
    radii = [shapely.hausdorff_distance(shapely.intersection(rays, ring), shapely.Point(center)) for ring in rings]
    # A Gaussian of 2.5 degrees, by its spectrum.
    smooth = np.exp(-((np.fft.fftfreq(720, 1 / 720) * np.radians(2.5)) ** 2) / 2)
    middle = center + np.fft.ifft(np.fft.fft(np.mean(radii, axis=0)) * smooth).real[:, None] * directions
    at = np.arange(100) / 100
    points = shapely.get_coordinates(shapely.line_interpolate_point(shapely.LinearRing(middle), at, normalized=True))
    along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    chords = shapely.linestrings(np.stack([points - 20 * across, points + 20 * across], axis=1))
    # The nearest point of each contour on the chord.
    halves = [shapely.distance(shapely.points(points), shapely.intersection(chords, ring)) for ring in rings]
    return float(np.sum(halves, axis=0).mean())


def test_the_reference_measures_circles_rightly() -> None:
    assert centerline_thickness(ellipse(25, 25), ellipse(34, 34)) == pytest.approx(9, rel=1e-3)


def test_the_thickness_of_real_walls_is_that_of_the_centerline(real_data: pathlib.Path) -> None:
    ratios = [
        thickness(inner, outer) / centerline_thickness(inner, outer)
        for contour_id in STUDIES.values()
        for _, inner, outer in real_pairs(real_data, contour_id)
    ]
    assert len(ratios) == 37
    assert np.mean(ratios) == pytest.approx(1.008, abs=0.004)
    assert min(ratios) > 0.99
    assert max(ratios) < 1.04


def test_volume_and_mass_are_those_of_a_tube() -> None:
    areas = [myocardium.area_mm2(ellipse(20, 20), ellipse(30, 30), (1.2, 1.2))] * 9
    volume = myocardium.volume_ml(areas, 10)
    assert volume == pytest.approx(math.pi * (36**2 - 24**2) * 90 / 1000, rel=1e-5)
    assert myocardium.mass_g(volume) == pytest.approx(1.05 * volume)


def test_masses_of_real_studies_are_possible_and_those_of_their_label_maps(real_data: pathlib.Path) -> None:
    for study_id, contour_id in STUDIES.items():
        areas, pixels = [], []
        for number, inner, outer in real_pairs(real_data, contour_id):
            header = pydicom.dcmread(real_data / "dicoms" / study_id / f"{number}.dcm", stop_before_pixels=True)
            rows_mm, columns_mm = map(float, header.PixelSpacing)
            areas.append(myocardium.area_mm2(inner, outer, (rows_mm, columns_mm)))
            regions = [("blood pool", inner), ("myocardium", outer)]
            labels = label_map(regions, ("outside", "blood pool", "myocardium"), (header.Rows, header.Columns))
            pixels.append(float((labels == 2).sum() * rows_mm * columns_mm))
        masses = [
            myocardium.mass_g(myocardium.volume_ml(each, float(header.SliceThickness))) for each in (areas, pixels)
        ]
        assert 60 < masses[0] < 350
        assert masses[1] == pytest.approx(masses[0], rel=0.01)
