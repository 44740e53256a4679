import io
import pathlib

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from benchmarks.exact import pixel_areas
from preprocess.findings import InputError
from preprocess.geometry.masks import rasterize
from preprocess.inputs.contours import read_contour

SHAPE = (40, 44)


def doubt(mask: np.ndarray, areas: np.ndarray) -> float:
    """The largest distance from one half of the area of a pixel that breaks the rule."""
    wrong = mask != (areas > 0.5)
    return float(np.abs(areas - 0.5)[wrong].max(initial=0))


def polygons(number: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.tuples(st.integers(3, 20), st.just(2)), elements=number)


anywhere = st.floats(1, 39, width=32)
on_half_pixels = st.integers(2, 78).map(lambda n: n / 2)


# Concave, self-intersecting, with coinciding edges: anything that 3 to 20 points can form.
@hypothesis.settings(max_examples=120)
@hypothesis.given(polygons(anywhere) | polygons(on_half_pixels))
def test_masks_of_random_polygons_follow_the_area_rule(polygon: np.ndarray) -> None:
    areas = pixel_areas(polygon, SHAPE)
    try:
        mask = rasterize(polygon, SHAPE)
    except InputError as error:
        assert error.reason == "degenerate_contour"
        mask = np.zeros(SHAPE, np.bool_)
    assert doubt(mask, areas) <= 0.15


def test_masks_of_random_outlines_follow_the_area_rule() -> None:
    rng = np.random.default_rng(5)
    judged = 0
    for _ in range(60):
        count = rng.integers(3, 60)
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = rng.uniform(2, 17, (count, 1)) if rng.random() < 0.5 else rng.uniform(5, 17)
        polygon = [20, 20] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        polygon = np.rint(polygon * 2) / 2 if rng.random() < 0.5 else polygon
        areas = pixel_areas(polygon, SHAPE)
        if (areas > 0.65).any():
            assert doubt(rasterize(polygon, SHAPE), areas) <= 0.1
            judged += 1
    assert judged > 50


def test_real_contours_have_no_wrong_pixel(real_data: pathlib.Path) -> None:
    biases = []
    for path in sorted(real_data.rglob("IM-*contour-manual.txt")):
        polygon = np.loadtxt(path)
        mask = rasterize(polygon, (256, 256))
        areas = pixel_areas(polygon, (256, 256))
        # Vertices lie on half pixels, so the contour halves some pixels exactly; those are ignored.
        assert doubt(mask, areas) < 1e-9, path.name
        biases.append(mask.sum() / areas.sum() - 1)
    assert len(biases) == 111
    assert abs(np.mean(biases)) < 0.005
    assert np.abs(biases).max() < 0.024


@pytest.mark.parametrize(
    ("polygon", "shape", "expected"),
    [
        ([(1, 2), (4, 2), (4, 3), (1, 3)], (5, 6), [[2, 1], [2, 2], [2, 3]]),
        ([(0, 0), (6, 0), (6, 5), (0, 5)], (5, 6), [[r, c] for r in range(5) for c in range(6)]),
        # A vertex up to a pixel beyond the edge is drawn, as far as the image goes.
        ([(-1, -1), (2, -1), (2, 1), (-1, 1)], (5, 6), [[0, 0], [0, 1]]),
        ([(5, 4), (7, 4), (7, 6), (5, 6)], (5, 6), [[4, 5]]),
        # 0.6 of a pixel is more than half, 0.4 is not.
        ([(1.4, 1), (3.4, 1), (3.4, 2), (1.4, 2)], (5, 6), [[1, 1], [1, 2]]),
    ],
)
def test_masks_are_those_drawn_by_hand(
    polygon: list[tuple[float, float]], shape: tuple[int, int], expected: list[list[int]]
) -> None:
    assert np.argwhere(rasterize(np.array(polygon, float), shape)).tolist() == expected


def circle(turns: float, radius: float = 10.0) -> np.ndarray:
    """An outline of 30 vertices a turn, over a number of turns."""
    angles = np.linspace(0, 2 * np.pi * turns, round(30 * turns), endpoint=False)
    return [20, 20] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("turns", [1.1, 1.5, 2, 2.5])
def test_an_outline_drawn_more_than_once_around_encloses_the_same_pixels(turns: float) -> None:
    assert np.array_equal(rasterize(circle(turns), SHAPE), rasterize(circle(1), SHAPE))


def test_both_lobes_of_a_figure_of_eight_are_inside() -> None:
    lobes = circle(1, 6) - (6, 0), circle(1, 6) + (6, 0)
    # Both start where they meet; one goes clockwise, the other counterclockwise.
    eight = np.vstack([lobes[0], np.roll(lobes[1], 15, axis=0)[::-1]])
    union = np.logical_or(*(rasterize(lobe, SHAPE) for lobe in lobes))
    assert (rasterize(eight, SHAPE) != union).sum() <= 2


def test_the_center_convention_moves_the_contour_by_half_a_pixel() -> None:
    square = np.array([(10.0, 12.0), (20.0, 12.0), (20.0, 22.0), (10.0, 22.0)])
    corner = rasterize(square + 0.5, SHAPE)
    text = "".join(f"{x} {y}\n" for x, y in square).encode()
    assert np.array_equal(rasterize(read_contour(io.BytesIO(text), "center"), SHAPE), corner)
    assert not np.array_equal(rasterize(read_contour(io.BytesIO(text)), SHAPE), corner)


def test_direction_and_first_vertex_do_not_matter_inside() -> None:
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 50))
    polygon = [20, 20] + 15 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    areas = pixel_areas(polygon, SHAPE)
    clear = np.abs(areas - 0.5) > 0.05
    mask = rasterize(polygon, SHAPE)
    for other in (polygon[::-1], np.roll(polygon, 7, axis=0), np.vstack([polygon, polygon[:1]])):
        assert np.array_equal(rasterize(other, SHAPE)[clear], mask[clear])


def test_pixels_in_doubt_lean_to_neither_side() -> None:
    """Over many circles at random places the area has no bias."""
    rng = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    biases = []
    for _ in range(200):
        radius, center = rng.uniform(4, 15), rng.uniform(18, 22, 2)
        polygon = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        biases.append(rasterize(polygon, SHAPE).sum() - np.pi * radius**2)
    assert stats.ttest_1samp(biases, 0).pvalue > 1e-3


@pytest.mark.parametrize(
    ("vertex", "shape"),
    [
        ((-1.01, 5), (20, 30)),
        ((31.01, 5), (20, 30)),
        ((5, -1.01), (20, 30)),
        ((5, 21.01), (20, 30)),
        ((2**30, 5), (20, 30)),
    ],
)
def test_a_vertex_outside_the_image_is_refused(vertex: tuple[float, float], shape: tuple[int, int]) -> None:
    polygon = np.array([vertex, (5, 5), (6, 8)], float)
    with pytest.raises(InputError, match=r"lies beyond the image's 30 columns and 20 rows") as raised:
        rasterize(polygon, shape)
    assert raised.value.reason == "outside_image"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_vertex_that_is_infinite_or_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="lies beyond"):
        rasterize(np.array([(bad, 5), (5, 5), (6, 8)], float), SHAPE)


@pytest.mark.parametrize(
    "polygon",
    [
        [(5.1, 5.1), (5.4, 5.1), (5.4, 5.4)],
        # There and back along one path.
        [(5, 5), (10, 5), (15, 9), (10, 5)],
    ],
)
def test_a_contour_that_covers_no_pixel_is_refused(polygon: list[tuple[float, float]]) -> None:
    with pytest.raises(InputError, match="no pixel has more than half of its area inside") as raised:
        rasterize(np.array(polygon, float), SHAPE)
    assert raised.value.reason == "degenerate_contour"


def test_a_contour_drawn_in_bands_follows_the_area_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 60))
    polygon = [20, 20] + rng.uniform(5, 18, (60, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    monkeypatch.setattr("preprocess.geometry.masks._MAX_SUBPIXELS", 1)
    assert doubt(rasterize(polygon, SHAPE), pixel_areas(polygon, SHAPE)) <= 0.1
