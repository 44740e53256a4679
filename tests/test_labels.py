import pathlib

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import shapely

from preprocess.findings import InputError
from preprocess.geometry.labels import label_map
from preprocess.geometry.masks import rasterize

from .helpers.shares import exact_shares

SHAPE = (30, 34)
CLASSES = ("outside", "blood pool", "myocardium")

LINES = 64
"""Scan lines per pixel."""

Points = list[tuple[float, float]]


def left_ventricle(inner: np.ndarray, outer: np.ndarray, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return label_map([("blood pool", inner), ("myocardium", outer)], CLASSES, shape)


def scanned_shares(inner: np.ndarray, outer: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """As ``exact_shares`` of any polygons (nonzero winding rule), with an error of about 0.01."""
    rows, columns = shape
    y = (np.arange(rows * LINES)[:, None] + 0.5) / LINES
    crossings, turns = [], []
    for polygon in (inner, outer):
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
        crossed = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
        crossings.append(np.where(crossed, x0 + (x1 - x0) * (y - y0) / np.where(y0 == y1, 1, y1 - y0), np.inf))
        turns.append(np.where(crossed, np.sign(y1 - y0), 0))
    x = np.concatenate(crossings, axis=1)
    along = x.argsort(axis=1)
    x = np.take_along_axis(x, along, axis=1)
    # For each pixel of a scan line, the parts of it between neighboring crossings.
    parts = np.diff(np.clip(x[:, :, None] - np.arange(columns), 0, 1), axis=1)
    in_inner, in_outer = (
        np.take_along_axis(np.concatenate(of_one, axis=1), along, axis=1).cumsum(axis=1)[:, :-1, None] != 0
        for of_one in ((turns[0], 0 * turns[1]), (0 * turns[0], turns[1]))
    )
    pool, wall = (
        (parts * inside).sum(axis=1).reshape(rows, LINES, columns).mean(axis=1)
        for inside in (in_inner, in_outer & ~in_inner)
    )
    return np.stack([1 - pool - wall, pool, wall])


def shortfall(labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How much less of each pixel its class covers than the class that covers most."""
    return shares.max(axis=0) - np.take_along_axis(shares, labels[None].astype(np.intp), axis=0)[0]


def clear_pixels(label: int, shares: np.ndarray, margin: float) -> bool:
    """Whether the class covers some pixel by a margin more than any other."""
    return bool((shares[label] > np.delete(shares, label, axis=0).max(axis=0) + margin).any())


def polygons(number: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.tuples(st.integers(3, 14), st.just(2)), elements=number)


any_polygon = polygons(st.floats(1, 29, width=32)) | polygons(st.integers(2, 58).map(lambda n: n / 2))


def test_label_maps_of_real_contours_have_no_wrong_pixel(real_data: pathlib.Path) -> None:
    biases, less_than_half = [], 0
    for path in sorted(real_data.rglob("IM-*-ocontour-manual.txt")):
        inner = np.loadtxt(path.parent.parent / "i-contours" / path.name.replace("ocontour", "icontour"))
        outer = np.loadtxt(path)
        labels, shares = left_ventricle(inner, outer, (256, 256)), exact_shares(inner, outer, (256, 256))
        # Vertices lie on half pixels, so classes share some pixels equally; those are ignored.
        assert shortfall(labels, shares).max() < 1e-9, path.name
        biases.append([(labels == label).sum() / shares[label].sum() - 1 for label in (1, 2)])
        less_than_half += int((shares.max(axis=0) < 0.5).sum())
    assert len(biases) == 37
    assert less_than_half > 0
    assert np.abs(np.mean(biases, axis=0)).max() < 0.005
    assert np.abs(biases).max() < 0.024


# Concave, self-intersecting, nested or not, with coinciding edges: anything that two times 3 to 14 points can form.
@hypothesis.settings(max_examples=100)
@hypothesis.given(any_polygon, any_polygon)
def test_label_maps_of_random_polygons_follow_the_area_rule(inner: np.ndarray, outer: np.ndarray) -> None:
    shares = scanned_shares(inner, outer, SHAPE)
    try:
        labels = left_ventricle(inner, outer)
    except InputError as error:
        assert error.reason == "degenerate_contour"
        assert not all(clear_pixels(label, shares, 0.2) for label in (1, 2))
    else:
        assert shortfall(labels, shares).max() <= 0.2


def test_label_maps_of_random_outlines_follow_the_area_rule() -> None:
    rng = np.random.default_rng(6)
    for _ in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(8, 60)))
        radii = rng.uniform(5, 10, (len(angles), 1))
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        # A wall of less than a pixel at places, so that pixels have parts of all three classes.
        inner, outer = (15 + across * directions for across in (radii, radii + rng.uniform(0.3, 4, radii.shape)))
        if rng.random() < 0.5:
            inner, outer = np.rint(inner * 2) / 2, np.rint(outer * 2) / 2
        if shapely.Polygon(inner).is_valid and shapely.Polygon(outer).is_valid:
            assert shortfall(left_ventricle(inner, outer), exact_shares(inner, outer, SHAPE)).max() <= 0.2


@st.composite
def ventricles(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two valid outlines around nearly the same center, at most a wall apart; the inner one may leave the outer one."""
    count = draw(st.integers(5, 40))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + draw(st.floats(0, 1))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = draw(hnp.arrays(np.float64, (count, 1), elements=st.floats(3, 9, width=16)))
    wall = draw(hnp.arrays(np.float64, (count, 1), elements=st.floats(-0.5, 4, width=16)))
    moved = draw(st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
    inner, outer = 15 + radii * directions, 15 + (radii + wall) * directions + moved
    if draw(st.booleans()):
        inner, outer = np.rint(inner * 2) / 2, np.rint(outer * 2) / 2
    hypothesis.assume(shapely.Polygon(inner).is_valid and shapely.Polygon(outer).is_valid)
    return inner, outer


@hypothesis.given(ventricles())
def test_label_maps_of_any_ventricle_follow_the_area_rule(pair: tuple[np.ndarray, np.ndarray]) -> None:
    shares = exact_shares(*pair, SHAPE)
    try:
        labels = left_ventricle(*pair)
    except InputError as error:
        assert error.reason == "degenerate_contour"
        assert not all(clear_pixels(label, shares, 0.2) for label in (1, 2))
    else:
        assert set(np.unique(labels)) == {0, 1, 2}
        assert shortfall(labels, shares).max() <= 0.2


@hypothesis.given(any_polygon)
def test_the_label_map_of_one_region_is_its_mask(polygon: np.ndarray) -> None:
    try:
        mask = rasterize(polygon, SHAPE)
    except InputError as error:
        with pytest.raises(InputError, match="no pixel has most of its area in the inside") as raised:
            label_map([("inside", polygon)], ("outside", "inside"), SHAPE)
        assert raised.value.reason == error.reason
    else:
        labels = label_map([("inside", polygon)], ("outside", "inside"), SHAPE)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, mask)


def strip(first: float, last: float) -> np.ndarray:
    """Three rows of pixels, between two columns."""
    return np.array([(first, 0), (last, 0), (last, 3), (first, 3)])


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ((1, 2), (0, 3), [2, 1, 2, 0]),
        # The last pixel: 0.4 blood pool, 0.35 myocardium, 0.25 outside; neither mask has it.
        ((2, 3.4), (0, 3.75), [2, 2, 1, 1]),
        ((2, 3.3), (0, 3.5), [2, 2, 1, 0]),
        ((2, 3.25), (0, 3.7), [2, 2, 1, 2]),
        # An inner contour that leaves its outer one.
        ((1, 4), (0, 2), [2, 1, 1, 1]),
    ],
)
def test_label_maps_are_those_drawn_by_hand(
    inner: tuple[float, float], outer: tuple[float, float], expected: list[int]
) -> None:
    assert left_ventricle(strip(*inner), strip(*outer), (3, 4)).tolist() == [expected] * 3


def corner(length: int) -> np.ndarray:
    """The lower left corner of 9 × 9 pixels, up to a diagonal that halves the pixels it crosses."""
    return np.array([(0, 9), (0, 9 - length), (length, 9)], float)


def test_a_pixel_that_two_classes_share_equally_has_the_outer_one() -> None:
    labels = left_ventricle(corner(5), corner(8), (9, 9))
    # Not at the ends of the diagonals, where other edges count, too.
    assert labels.diagonal(-4)[1:-1].tolist() == [2] * 3
    assert labels.diagonal(-1)[1:-1].tolist() == [0] * 6
    assert labels.diagonal(-5).tolist() == [1] * 4


def test_papillary_muscles_and_the_right_ventricle_are_a_line_each() -> None:
    papillary, inner, outer, right = strip(2, 3), strip(1, 4), strip(0, 5), strip(4, 7)
    regions = [("myocardium", papillary), ("blood pool", inner), ("myocardium", outer)]
    assert label_map(regions, CLASSES, (3, 8)).tolist() == [[2, 1, 2, 1, 2, 0, 0, 0]] * 3
    regions += [("right ventricle", right)]
    assert label_map(regions, (*CLASSES, "right ventricle"), (3, 8)).tolist() == [[2, 1, 2, 1, 2, 3, 3, 0]] * 3


def test_parts_of_one_class_count_together() -> None:
    regions = [("myocardium", strip(0, 1.3)), ("blood pool", strip(1.3, 1.7)), ("myocardium", strip(1.7, 3))]
    assert label_map([*regions, ("blood pool", strip(3, 4))], CLASSES, (3, 4)).tolist() == [[2, 2, 2, 1]] * 3


@pytest.mark.parametrize(
    ("inner", "outer", "name"),
    [
        # The same contour twice, and an outer contour within the inner one.
        (strip(1, 3), strip(1, 3), "myocardium"),
        (strip(0, 4), strip(1, 3), "myocardium"),
        (strip(1.2, 1.5), strip(0, 4), "blood pool"),
    ],
)
def test_a_region_that_has_no_pixel_is_refused(inner: np.ndarray, outer: np.ndarray, name: str) -> None:
    with pytest.raises(InputError, match=f"no pixel has most of its area in the {name}") as raised:
        left_ventricle(inner, outer, (3, 4))
    assert raised.value.reason == "degenerate_contour"


@pytest.mark.parametrize("bad", [-1.01, 5.01, np.nan, np.inf])
def test_a_vertex_of_any_region_outside_the_image_is_refused(bad: float) -> None:
    for contours in ((strip(1, bad), strip(0, 4)), (strip(1, 2), strip(0, bad))):
        with pytest.raises(InputError, match="lies beyond the image's 4 columns and 3 rows") as raised:
            left_ventricle(*contours, (3, 4))
        assert raised.value.reason == "outside_image"


def test_a_label_map_drawn_in_bands_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 60))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner, outer = (15 + rng.uniform(low, low + 4, (60, 1)) * directions for low in (5, 10))
    whole = left_ventricle(inner, outer)
    monkeypatch.setattr("preprocess.geometry.masks._MAX_SUBPIXELS", 1)
    assert shortfall(left_ventricle(inner, outer), exact_shares(inner, outer, SHAPE)).max() <= 0.2
    assert (left_ventricle(inner, outer) != whole).mean() < 0.01
