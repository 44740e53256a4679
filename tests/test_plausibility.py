import dataclasses
import math
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pytest
import scipy.ndimage
import skimage.draw

from benchmarks.bench_audit import Contoured, Images
from preprocess.config import Config
from preprocess.inputs import sources
from preprocess.layouts import challenge
from preprocess.model import Pair
from preprocess.quality import plausibility
from preprocess.quality.contrast import Fit, measure
from preprocess.quality.measurements import planned
from preprocess.quality.plausibility import THRESHOLD, Judgement
from preprocess.quality.volumes import Volumes
from preprocess.stages.load import load

from .helpers.hearts import SIZE, Heart
from .helpers.synthetic import header_of

ED, ES = 0, 7


def circle(x: float, y: float, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def drawn(heart: Heart, phases: Iterable[int], kinds: str = "i") -> list[Pair]:
    """The contours of every slice at some phases."""
    return [
        heart.pair(index, phase, kind)  # type: ignore[arg-type]
        for kind in kinds
        for index in range(heart.slices)
        for phase in phases
    ]


def fits_of(heart: Heart, pairs: Sequence[Pair]) -> dict[str, Fit]:
    return {
        pair.contour_path: measure(
            heart.image(pair.slice_index, pair.phase_index), pair.polygon, pair.header, pair.kind
        )
        for pair in pairs
    }


def judge(pairs: Sequence[Pair], fits: Mapping[str, Fit], phases: int, slice_spacing_mm: float) -> list[Judgement]:
    return plausibility.judge([*map(planned, pairs)], fits, phases, slice_spacing_mm)


def judged(heart: Heart, pairs: Sequence[Pair]) -> list[Judgement]:
    return judge(pairs, fits_of(heart, pairs), heart.phases, 8.0)


def accused(judgements: Iterable[Judgement]) -> set[str]:
    return {one.pair.contour_path for one in judgements if one.score > THRESHOLD}


@pytest.mark.parametrize(
    ("slices", "phases", "contoured", "kinds"),
    [
        (9, 20, (ED, ES), "i"),
        (9, 20, (ED, ES), "io"),
        (9, 20, (ED,), "i"),
        (5, 12, range(12), "i"),
        (1, 20, range(20), "i"),
        (1, 20, (ED, ES), "io"),
        (1, 1, (0,), "i"),
    ],
)
def test_correct_contours_are_not_accused(slices: int, phases: int, contoured: Sequence[int], kinds: str) -> None:
    for seed in range(3):
        heart = Heart(slices, phases, seed)
        pairs = drawn(heart, contoured, kinds)
        assert accused(judged(heart, pairs)) == set()
        assert plausibility.contours_of_other_images(pairs, fits_of(heart, pairs)) == ""


def scaled(polygon: np.ndarray, scale: float) -> np.ndarray:
    center = polygon.mean(axis=0)
    return np.asarray((polygon - center) * scale + center)


# What is done to a contour, and what its detail says.
DAMAGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "moved right": (lambda polygon: polygon + (8, 0), r"its center lies \d+\.\d px .*px right"),
    "moved up": (lambda polygon: polygon - (0, 8), r"its center lies \d+\.\d px .*px up"),
    "smaller": (
        lambda polygon: scaled(polygon, 0.65),
        r"px², where its neighbors suggest [\d,]+ \(in phase [\d,]+, in slice ",
    ),
    "larger": (
        lambda polygon: scaled(polygon, 1.35),
        r"px², where its neighbors suggest [\d,]+ \(in phase [\d,]+, in slice ",
    ),
    "exchanged": (lambda polygon: polygon[:, ::-1], "go around in one direction"),
    "mirrored": (lambda polygon: polygon * (-1, 1) + (SIZE, 0), "go around in one direction"),
    "half": (lambda polygon: polygon[: len(polygon) // 2], r"its long axis is [2-9]\.\d\d times the short one"),
    "elsewhere": (lambda _: circle(60, 50, 15), r"the contrast of its image along the contour is -?0\.[01]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damaged_contour_is_found_and_no_other(name: str) -> None:
    damage, expected = DAMAGES[name]
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    for index in range(0, len(pairs) - 4, 3):
        wrong = dataclasses.replace(pairs[index], polygon=damage(pairs[index].polygon))
        judgements = judged(heart, [*pairs[:index], wrong, *pairs[index + 1 :]])
        assert accused(judgements) == {wrong.contour_path}
        assert re.search(expected, judgements[index].detail), judgements[index].detail


@pytest.mark.parametrize("kinds", ["o", "io"])
@pytest.mark.parametrize(("move", "scale"), [((4, 3), 1.0), ((-5, 0), 1.0), ((0, 0), 0.8), ((0, 0), 1.35)])
def test_one_damaged_outer_contour_is_found_and_no_other(move: tuple[int, int], scale: float, kinds: str) -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED,), kinds)
    for index, pair in enumerate(pairs):
        # The end of the stack is predicted by the contour beside it, right or wrong.
        if pair.kind == "o" and 1 < pair.slice_index < 7:
            wrong = dataclasses.replace(pair, polygon=scaled(pair.polygon, scale) + move)
            judgements = judged(heart, [*pairs[:index], wrong, *pairs[index + 1 :]])
            assert accused(judgements) == {wrong.contour_path}
            assert re.search(r"px|standard deviation", judgements[index].detail)


def test_the_detail_of_an_outer_contour_says_how_even_its_image_is() -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED,), "io")
    wrong = dataclasses.replace(pairs[13], polygon=pairs[13].polygon + (5, 0))
    detail = judged(heart, [*pairs[:13], wrong, *pairs[14:]])[13].detail
    found = re.search(
        r"the standard deviation of its image just inside the contour is (0\.\d\d), that of the study's others "
        r"(0\.\d\d) to (0\.\d\d); it would be (0\.\d\d) if the contour were moved \d px left",
        detail,
    )
    assert found, detail
    own, least, most, there = map(float, found.groups())
    assert least <= most < own
    assert there < own


@pytest.mark.parametrize("move", [(5, 0), (0, -8)])
def test_a_damaged_inner_contour_does_not_accuse_its_outer_contour(move: tuple[int, int]) -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES), "io")
    for index in range(18):
        wrong = dataclasses.replace(pairs[index], polygon=pairs[index].polygon + move)
        found = accused(judged(heart, [*pairs[:index], wrong, *pairs[index + 1 :]]))
        assert wrong.contour_path in found
        assert not any(path.startswith("o-") for path in found)


def test_an_image_alone_does_not_accuse_an_outer_contour_without_neighbors() -> None:
    """Elsewhere may be an even region; nothing says that the contour belongs there."""
    header = header_of(shape=(SIZE, SIZE), pixel_spacing_mm=(1.35, 1.35))
    image = np.random.default_rng(0).normal(0, 100, (SIZE, SIZE))
    image[:, 84:] = 0
    pair = dataclasses.replace(Heart(1, 1).pair(0, 0, "o"), header=header, polygon=circle(80, 80, 10))
    fit = measure(image, pair.polygon, header, "o")
    assert fit.moved.max() > fit.own / 2
    assert accused(judge([pair], {pair.contour_path: fit}, 1, 8.0)) == set()


def test_exchanged_contours_are_found() -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    by_place = {(pair.slice_index, pair.phase_index): pair for pair in pairs}
    for one, other in [((4, ED), (4, ES)), ((6, ED), (7, ED)), ((5, ES), (7, ES))]:
        swapped = dict(by_place)
        swapped[one] = dataclasses.replace(by_place[one], polygon=by_place[other].polygon)
        swapped[other] = dataclasses.replace(by_place[other], polygon=by_place[one].polygon)
        found = accused(judged(heart, [*swapped.values()]))
        assert found
        assert found <= {by_place[one].contour_path, by_place[other].contour_path}


def runaways(heart: Heart, pairs: Sequence[Pair], wrong: Iterable[int]) -> list[Pair]:
    """The contours, some of which run over half the heart."""
    rng = np.random.default_rng(heart.seed)
    damaged = list(pairs)
    for index in wrong:
        x, y, radius = rng.normal(80, 6), rng.normal(80, 6), rng.uniform(30, 34)
        damaged[index] = dataclasses.replace(pairs[index], polygon=circle(x, y, radius))
    return damaged


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("together", [True, False])
def test_19_runaway_contours_of_400_are_found(seed: int, together: bool) -> None:
    heart = Heart(20, 20, seed)
    pairs = drawn(heart, range(20))
    if together:
        wrong = [20 * index + phase for index in (12, 13, 14, 15) for phase in range(2, 7)][:19]
    else:
        wrong = np.random.default_rng(seed).choice(400, 19, replace=False).tolist()
    damaged = runaways(heart, pairs, wrong)
    # The images are left out: what is found, is found from the contours alone.
    judgements = judge(damaged, {}, 20, 8.0)
    paths = {pairs[index].contour_path for index in wrong}
    assert paths <= accused(judgements)
    assert len(accused(judgements) - paths) <= 0.02 * 381
    for index in wrong:
        size = re.search(r"([\d,]+) px², where its neighbors suggest ([\d,]+) \((.*?)\)", judgements[index].detail)
        assert size
        own, suggested = (float(area.replace(",", "")) for area in size.group(1, 2))
        assert own > 2800
        assert suggested == round(judgements[index].expected_area_px)
        # The runaways beside it are not the neighbors that it is compared with.
        beside = [float(area.replace(",", "")) for area in re.findall(r"\d[\d,]*\d", size.group(3))]
        assert max(beside) < 1.01 * max(polygon_area(pair.polygon) for pair in pairs)
        true = polygon_area(pairs[index].polygon)
        assert judgements[index].expected_area_px == pytest.approx(true, rel=0.25)


def test_runaway_contours_are_found_in_a_long_series() -> None:
    heart = Heart(10, 70)
    pairs = drawn(heart, range(70))
    wrong = range(150, 700, 70)
    judgements = judge(runaways(heart, pairs, wrong), {}, 70, 8.0)
    paths = {pairs[index].contour_path for index in wrong}
    assert paths <= accused(judgements)
    assert len(accused(judgements) - paths) <= 0.02 * 700


def polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def test_a_runaway_contour_does_not_choose_end_diastole() -> None:
    heart = Heart(20, 20)
    pairs = drawn(heart, range(20))
    true = Volumes.of([(planned(pair), polygon_area(pair.polygon)) for pair in pairs], 8.0)
    wrong = [20 * index + 9 for index in range(1, 20)]
    damaged = runaways(heart, pairs, wrong)
    areas = [(planned(pair), polygon_area(pair.polygon)) for pair in damaged]
    judgements = judge(damaged, {}, 20, 8.0)
    expected = {one.pair.contour_path: one.expected_area_px for one in judgements if one.score > THRESHOLD}
    assert Volumes.of(areas, 8.0).end_diastole == 9
    volumes = Volumes.of(areas, 8.0, expected=expected)
    assert (volumes.end_diastole, volumes.end_systole) == (true.end_diastole, true.end_systole)
    assert (volumes.edv_ml, volumes.esv_ml) == (true.edv_ml, true.esv_ml)
    assert true.reliable
    assert volumes.reliable == (not {true.end_diastole, true.end_systole} & set(volumes.doubtful))
    assert volumes.doubtful[9] == list(range(1, 20))


def test_volumes_with_an_implausible_contour_are_not_reliable() -> None:
    heart = Heart(6, 20)
    pairs = drawn(heart, (ED, ES))
    areas = [(planned(pair), polygon_area(pair.polygon)) for pair in pairs]
    assert Volumes.of(areas, 8.0).reliable
    volumes = Volumes.of(areas, 8.0, expected={pairs[4].contour_path: 900.0})
    assert volumes.doubtful == {ED: [2]}
    assert not volumes.reliable
    assert not Volumes.of(areas[:-2] + areas[-1:], 8.0, [], {}).reliable
    assert not Volumes.of([], 8.0).reliable


def test_contours_of_other_images_are_found_though_they_agree_with_each_other() -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    damaged = [dataclasses.replace(pair, polygon=pair.polygon + (14, 9)) for pair in pairs]
    detail = plausibility.contours_of_other_images(damaged, fits_of(heart, damaged))
    assert re.fullmatch(r"the median contrast of the images along .* is -?0\.\d\d, at least 0\.24 expected", detail)
    # Each contour on the image of another slice.
    shifted = {
        pair.contour_path: measure(heart.image(pair.slice_index + 4, pair.phase_index), *rest, "i")
        for pair in pairs[:10]
        for rest in [(pair.polygon, pair.header)]
    }
    assert plausibility.contours_of_other_images(pairs[:10], shifted)


def test_exchanged_axes_of_a_whole_study_are_named() -> None:
    heart = Heart(9, 20)
    pairs = [dataclasses.replace(pair, polygon=pair.polygon[:, ::-1]) for pair in drawn(heart, (ED, ES))]
    fits = fits_of(heart, pairs)
    assert all(fit.exchanged > 0.9 for fit in fits.values())
    lowest = plausibility.lowest_contrast(pairs, fits)
    assert lowest.exchanged > 0.9 > 0.5 > lowest.contrast
    assert re.search(r"and (0\.9|1\.0)\d if x and y are exchanged$", plausibility.contours_of_other_images(pairs, fits))


def disk_image(x: float, y: float, radius: float) -> np.ndarray:
    """100 around a disk of 300, int16 ``(SIZE, SIZE)``; drawn by scikit-image."""
    image = np.full((SIZE, SIZE), 100, np.int16)
    image[skimage.draw.disk((y - 0.5, x - 0.5), radius, shape=image.shape)] = 300
    return image


@pytest.mark.parametrize(("dx", "dy", "scale"), [(0, 0, 1.0), (4, -2, 1.0), (-6, 6, 1.0), (0, 2, 0.7), (-2, 0, 1.4)])
def test_the_image_shows_where_a_contour_belongs(dx: float, dy: float, scale: float) -> None:
    header = header_of(shape=(SIZE, SIZE), pixel_spacing_mm=(math.nan, math.nan))
    fit = measure(disk_image(80 + dx, 70 + dy, 22 * scale), circle(80, 70, 22), header, "i")
    best = [int(index) for index in np.unravel_index(fit.moved.argmax(), fit.moved.shape)]
    assert best == [[0.7, 0.85, 1.0, 1.2, 1.4].index(scale), 3 + dy / 2, 3 + dx / 2]
    assert fit.moved.max() == pytest.approx(1, abs=0.05)
    assert (fit.own == fit.moved.max()) == ((dx, dy, scale) == (0, 0, 1.0))


def test_an_outer_contour_fits_where_the_values_inside_are_even() -> None:
    header = header_of(shape=(SIZE, SIZE), pixel_spacing_mm=(1.35, 1.35))
    image = disk_image(80, 70, 32) // 3
    image[skimage.draw.disk((69.5, 79.5), 22, shape=image.shape)] = 400
    image[:, 114:] = 300
    fit = measure(image, circle(80, 70, 32), header, "o")
    assert fit.own == pytest.approx(0, abs=0.1)
    assert fit.moved.max() <= fit.own + 0.06
    unmoved = np.ones(fit.moved.shape[1:], np.bool_)
    unmoved[2:5, 2:5] = False
    # Moved by 4 pixels and more.
    assert fit.moved[2][unmoved].max() < fit.own - 0.06
    # The standard deviation is that of the image along two circles.
    angles = np.arange(32) * np.pi / 16
    for scale, row, column in [(2, 3, 6), (2, 0, 3), (4, 3, 3), (0, 3, 3)]:
        radius = 32 * [0.7, 0.85, 1, 1.2, 1.4][scale]
        x, y = 80 + 2 * (column - 3), 70 + 2 * (row - 3)
        values = [
            scipy.ndimage.map_coordinates(
                image.astype(float), [y + r * np.sin(angles) - 0.5, x + r * np.cos(angles) - 0.5], order=1
            )
            for r in (radius - 0.5, radius - 1)
        ]
        spread = np.subtract(*np.percentile(image[29:112, 39:122], (90, 10)))
        assert fit.moved[scale, row, column] == pytest.approx(-np.std(values) / spread, abs=0.03)


def test_contrast_does_not_depend_on_units_of_values_or_pixels() -> None:
    header = header_of(shape=(SIZE, SIZE), pixel_spacing_mm=(1.35, 1.35))
    image, contour = disk_image(80, 70, 22), circle(83, 70, 22)
    fit = measure(image, contour, header, "i")
    for other, polygon, changed in (
        (1000.0 - 2.5 * image, contour, dataclasses.replace(header, monochrome1=True)),
        (image.astype(np.uint16), contour[::-1], header),
        (
            np.kron(image, np.ones((2, 2), np.int16)),
            2 * contour,
            dataclasses.replace(header, pixel_spacing_mm=(0.675, 0.675)),
        ),
    ):
        measured = measure(other, polygon, changed, "i")
        assert measured.own == pytest.approx(fit.own, abs=0.03)
        assert measured.moved == pytest.approx(fit.moved, abs=0.08)


def test_a_contour_alone_on_an_image_without_an_edge_is_implausible() -> None:
    heart = Heart(1, 1)
    pair = dataclasses.replace(heart.pair(0, 0), slice_index=-1, phase_index=-1)
    noise = np.random.default_rng(0).normal(100, 5, (SIZE, SIZE))
    fits = {pair.contour_path: measure(noise, pair.polygon, pair.header, pair.kind)}
    (judgement,) = judge([pair], fits, 0, math.nan)
    assert re.fullmatch(r"the contrast of its image along the contour is -?0\.0\d.*", judgement.detail)
    # A constant image says nothing.
    fits = {pair.contour_path: measure(np.full((SIZE, SIZE), 7), pair.polygon, pair.header, pair.kind)}
    assert accused(judge([pair], fits, 0, math.nan)) == set()


def test_a_contour_without_neighbors_is_what_is_expected() -> None:
    pair = dataclasses.replace(Heart(1, 1).pair(0, 0), polygon=circle(900, 700, 20))
    (judgement,) = judge([pair], {}, 1, 8.0)
    assert judgement.score == pytest.approx(0, abs=0.1)
    assert judgement.expected_area_px == pytest.approx(400 * np.pi, rel=0.01)


def test_the_image_defends_contours_that_moved_with_it() -> None:
    """One slice lies 4 pixels off, as between two breath-holds."""
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    fits = fits_of(heart, pairs)
    by_neighbors, by_image_too = 0, 0
    for index, pair in enumerate(pairs):
        moved = dataclasses.replace(pair, polygon=pair.polygon + (4, 0))
        image = np.roll(heart.image(pair.slice_index, pair.phase_index), 4, axis=1)
        fit = measure(image, moved.polygon, moved.header, moved.kind)
        study = [*pairs[:index], moved, *pairs[index + 1 :]]
        by_neighbors += len(accused(judge(study, {}, 20, 8.0)))
        by_image_too += len(accused(judge(study, {**fits, pair.contour_path: fit}, 20, 8.0)))
    assert by_neighbors > 14
    assert by_image_too < 3


def test_directions_that_are_mixed_are_not_odd() -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    for count in (0, 1, 4, 9, 18):
        turned = [
            dataclasses.replace(pair, polygon=pair.polygon[::-1]) if index < count else pair
            for index, pair in enumerate(pairs)
        ]
        assert len(accused(judged(heart, turned))) == (count == 1)


def test_stacks_of_other_directions_do_not_predict_each_other() -> None:
    heart = Heart(9, 20)
    pairs = drawn(heart, (ED, ES))
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    other = dataclasses.replace(
        pairs[0],
        contour_path="long-axis.txt",
        header=dataclasses.replace(pairs[0].header, orientation=sagittal),
        polygon=circle(60, 50, 35),
        slice_index=9,
    )
    assert accused(judge([*pairs, other], {}, 20, 8.0)) == set()
    same = dataclasses.replace(other, header=pairs[0].header)
    assert "long-axis.txt" in accused(judge([*pairs, same], {}, 20, 8.0))


@pytest.mark.parametrize("shape", [(1, 1), (3, 40_000), (40, 30)])
@pytest.mark.parametrize("spacing", [1e-9, 1e9, 0.0, math.nan])
def test_hostile_contours_are_measured_and_judged(shape: tuple[int, int], spacing: float) -> None:
    heart = Heart(1, 1)
    header = header_of(shape=shape, pixel_spacing_mm=(spacing, spacing))
    rows, columns = shape
    polygons = [
        np.array([(0, 0), (columns, rows), (columns, 0), (0, rows)], float),
        np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], float),
        np.array([(-1, -1), (columns + 1, -1), (columns / 2, rows + 1)], float),
        np.array([(0.1, 0.1), (0.1, 0.1), (0.2, 0.1)]),
    ]
    pixels = np.arange(rows * columns).reshape(shape) % 251
    pairs = [
        dataclasses.replace(heart.pair(0, index), header=header, polygon=polygon)
        for index, polygon in enumerate(polygons)
    ]
    for kind in ("i", "o"):
        pairs = [dataclasses.replace(pair, kind=kind) for pair in pairs]
        fits = {pair.contour_path: measure(pixels, pair.polygon, header, pair.kind) for pair in pairs}
        judgements = judge(pairs, fits, 4, math.nan)
        assert all(math.isfinite(one.score) for one in judgements)
    assert judge([], {}, 0, math.nan) == []


def test_correct_contours_of_real_studies_are_not_accused(real_data: pathlib.Path) -> None:
    config = Config(real_data, pathlib.Path(tempfile.gettempdir()) / "unused")
    seen = 0
    with sources.unchanged(real_data) as source:
        images = Images(source, config)
        for study in challenge.discover(source)[0]:
            loaded = load(source, config, study)
            contoured = Contoured.of(loaded, [*loaded.pairs["i"], *loaded.pairs["o"]], images)
            assert max(contoured.scores().values()) <= THRESHOLD
            assert plausibility.contours_of_other_images(contoured.pairs, contoured.fits) == ""
            exchanged = {pair.contour_path: pair.polygon[:, ::-1] for pair in contoured.pairs}
            assert contoured.with_polygons(exchanged, images).contrast().is_of_other_images()
            seen += len(contoured.pairs)
    assert seen == 111
