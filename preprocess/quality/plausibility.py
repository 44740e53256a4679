"""Contours that are well-formed and wrong: each against its neighbors, its image, and the rest of its study.

``contrast.measure`` runs where an image is decoded. ``judge`` runs when all contours of a study are known.

**Neighbors.** Size, center and elongation of a contour change smoothly from slice to slice and from phase to phase. A
Gaussian process predicts each contour from all others, and how far the prediction may be off: a contour between
neighbors is predicted better than one at the end of the stack, or one that is alone (leave-one-out predictions in
closed form: Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006, section 5.4.2). Inner and
outer contours predict each other. Contours that are far off are left out of the predictions, the worst first, so that
many wrong ones do not hide each other. If a whole study varies more than the prediction allows, its median says so, and
the deviations count less (in the spirit of Hampel's rule with the median absolute deviation: Rousseeuw and Croux, J.
Am. Stat. Assoc. 88:1273, 1993).

**Image.** ``contrast`` has what is measured: contrast across an inner contour, and how even the values are just inside
an outer one. The image speaks against an inner contour that has less contrast than the study's others, and against any
contour that would fit better elsewhere, near the place that its neighbors expect. It speaks for a contour that fits
better than it would there, which outweighs neighbors that differ.

**Direction.** A program that draws contours goes around all of them in one direction. Exchanged axes and mirroring
reverse the direction of one.

The evidence of size, center, elongation and image is added to a score. Scores, and their share of true and false
accusations, are measured by ``benchmarks.bench_audit``; automatic quality control of contours in large studies with a
reference on part of them is in Albà et al., Med. Image Anal. 43:129, 2018, and Robinson et al., J. Cardiovasc. Magn.
Reson. 21:18, 2019.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.model import ContourKind, Match, PlannedPair
from preprocess.quality.contrast import MOVES, SCALES, UNMOVED, UNSCALED, Fit, step_px

THRESHOLD = 8.5
"""A contour with a higher score is implausible: the highest score of 111 correct contours, and 0.5 more."""

STUDY_CONTRAST = 0.24
"""A study whose contours of a phase have a lower median contrast was drawn on other images: ¾ of the lowest of four."""

_SLICE_MM = 9.0
"""Distances are counted in slices of this thickness, that of the studies that the constants come from."""

_GAIN_WEIGHT, _LOSS_WEIGHT = 12.0, 10.0
"""Evidence of the image of an inner contour: contrast that would be gained elsewhere, and the square of the contrast
that is missing, as shares of the study's typical contrast. So a contour without any contrast is implausible by itself.
"""

_INDEPENDENT, _LEAST_DEVIATION = 9, 0.05
"""Independent points along an outer contour, whose likelihood of normally distributed values is the evidence of the
image; and a part of their standard deviation that the wall has on any image, as a share of the range of values.
"""

_OUTER_WEIGHT = 0.75
"""Of all evidence of outer contours, so that the threshold is the same: they vary more than inner ones."""

_PREDICTED = 4.0
"""Variance up to which a prediction is good enough to say where else a contour may belong, in square steps."""

_TURN_WEIGHT = 100.0
"""Evidence of a direction that is odd; enough by itself."""

_UNANIMOUS = 10
"""A direction is odd where at least so many contours are compared and at most one, or one of twenty, has it."""

_OTHER_DIRECTION = (
    "its points go around in one direction and those of nearly all other contours of the study in the other, as after "
    "exchanged axes or mirroring"
)

_MANY = 3
"""Contours that make a median."""

_FAR_OFF = 16.0
"""A contour that its neighbors contradict by more does not predict others."""

_TYPICAL = 3.2
"""Median evidence of the neighbors if deviations are as large as predicted: of χ²(1) + χ²(2) + χ²(2) / 2."""

_LEFT_OUT = 1e6
"""Noise, as a variance, of a contour that does not predict others."""

_MAX_AT_ONCE = 600
"""Contours that predict each other; the time grows with the cube."""

_PARALLEL, _APART = 0.99, 1000.0
"""Slices whose normals differ by more than 8° are stacks of their own, and far apart."""


class Contrast(NamedTuple):
    """Median contrast along some contours of a study; NaN when there are too few.

    Attributes:
        where: which contours.
        contrast: along them.
        exchanged: along them with x and y exchanged.
    """

    where: str
    contrast: float
    exchanged: float

    def is_of_other_images(self, least: float = STUDY_CONTRAST) -> bool:
        """Whether the contrast is under the least expected, or higher when x and y are exchanged."""
        return self.contrast < max(least, self.exchanged)


class Judgement(NamedTuple):
    """What speaks against a contour.

    Attributes:
        pair: the contour and its image.
        score: the evidence; above ``THRESHOLD`` the contour is implausible.
        expected_area_px: the area that its neighbors predict, in square pixels; its own where it has none.
        detail: what is odd, in numbers; empty where the contour is plausible.
    """

    pair: PlannedPair
    score: float
    expected_area_px: float
    detail: str


def judge(
    pairs: Sequence[PlannedPair], fits: Mapping[str, Fit], phases: int, slice_spacing_mm: float
) -> list[Judgement]:
    """Judges every contour of a study.

    Args:
        pairs: the study's contours of both kinds, those that can be used.
        fits: what was measured of contours, by contour path; others are judged by their neighbors alone.
        phases: how many the study has, contoured or not.
        slice_spacing_mm: distance between neighboring slices, NaN when unknown.

    Returns:
        One judgement for each pair, in the same order.
    """
    shapes = np.array([pair.shape for pair in pairs]).reshape(-1, 5)
    steps = np.array([step_px(pair.pixel_spacing_mm) for pair in pairs])
    expected = shapes.copy()
    evidence = np.zeros((len(pairs), len(_VARIATIONS)))
    errors = np.full_like(evidence, np.inf)
    placed = [index for index, pair in enumerate(pairs) if pair.slice_index >= 0 and pair.phase_index >= 0]
    placed.sort(key=lambda index: (pairs[index].phase_index, pairs[index].slice_index, pairs[index].kind))
    parts = math.ceil(len(placed) / _MAX_AT_ONCE)
    for some in np.array_split(np.array(placed), parts) if parts else ():
        at = _coordinates([pairs[index] for index in some], phases, slice_spacing_mm)
        residuals, errors[some], evidence[some] = _against_neighbors(shapes[some] / steps[some, None], at)
        expected[some] -= residuals * steps[some, None]
    image = _against_image(pairs, fits, shapes, expected, errors, steps)
    weights = np.array([_OUTER_WEIGHT if pair.kind == "o" else 1.0 for pair in pairs])
    evidence, image = evidence * weights[:, None], image * weights
    turned = _turned(pairs)
    scores = evidence.sum(axis=1) + image + _TURN_WEIGHT * turned
    plausible = [pair for pair, score in zip(pairs, scores, strict=True) if score <= THRESHOLD]
    rows = _Rows.of(plausible)
    known: dict[ContourKind, list[float]] = collections.defaultdict(list)
    for pair in plausible:
        if pair.contour_path in fits and not math.isnan(fits[pair.contour_path].own):
            known[pair.kind].append(fits[pair.contour_path].own)
    judgements = []
    for index, pair in enumerate(pairs):
        detail = ""
        if scores[index] > THRESHOLD:
            fit = fits.get(pair.contour_path)
            reasons = [
                (_TURN_WEIGHT * turned[index], _OTHER_DIRECTION),
                (evidence[index, 0], _of_size(pair, rows, math.pi * expected[index, 0] ** 2)),
                (evidence[index, 1], _of_center(shapes[index], expected[index])),
                (evidence[index, 2], _of_elongation(shapes[index], expected[index])),
                (image[index], _of_image(pair.kind, fit, known[pair.kind], steps[index]) if fit else ""),
            ]
            # The strongest reason, and others that nearly suffice alone.
            reasons.sort(key=lambda reason: -reason[0])
            detail = "; ".join(text for weight, text in reasons if weight >= min(reasons[0][0], THRESHOLD / 2))
        judgements.append(Judgement(pair, float(scores[index]), math.pi * expected[index, 0] ** 2, detail))
    return judgements


def contours_of_other_images(pairs: Sequence[Match], fits: Mapping[str, Fit]) -> str:
    """What shows that a study's inner contours were not drawn on its images; empty when they fit.

    Such contours are consistent among themselves: their numbers are off by one, x and y are exchanged, or they are
    another study's.
    """
    lowest = lowest_contrast(pairs, fits)
    if not lowest.is_of_other_images():
        return ""
    detail = f"the median contrast of the images along {lowest.where} is {_signed(lowest.contrast)}"
    if lowest.exchanged >= STUDY_CONTRAST:
        return f"{detail}, and {lowest.exchanged:.2f} if x and y are exchanged"
    return f"{detail}, at least {STUDY_CONTRAST:g} expected"


def lowest_contrast(pairs: Sequence[Match], fits: Mapping[str, Fit]) -> Contrast:
    """The lowest median contrast along inner contours: of each phase that has several, and of all together."""
    by_phase: dict[int, list[Fit]] = collections.defaultdict(list)
    for pair in pairs:
        if pair.kind == "i" and pair.contour_path in fits:
            by_phase[pair.phase_index].append(fits[pair.contour_path])
    groups = {f"the inner contours at phase {phase}": some for phase, some in sorted(by_phase.items())}
    groups["all inner contours"] = [fit for some in by_phase.values() for fit in some]
    found = [
        Contrast(where, *(float(np.nanmedian(values)) for values in zip(*[fit[:2] for fit in some], strict=True)))
        for where, some in groups.items()
        if sum(not math.isnan(fit.own) for fit in some) >= _MANY
    ]
    return min(found, key=lambda one: one.contrast, default=Contrast("", math.nan, math.nan))


class _Variation(NamedTuple):
    """How much a quantity varies, in steps; each variation has a standard deviation and a length in slices.

    Attributes:
        columns: of a shape.
        weight: of its evidence.
        level: standard deviation of a stack's mean from the study's median, or from 0 for the elongation.
        kinds: standard deviation of the difference between inner and outer contours.
        slices: variation from slice to slice.
        wall: variation from slice to slice that differs between inner and outer contours.
        beat: the same, and it differs between phases.
        noise: standard deviation of an inner and of an outer contour alone.
    """

    columns: slice
    weight: float
    level: float
    kinds: float
    slices: tuple[float, float]
    wall: tuple[float, float]
    beat: tuple[float, float]
    noise: tuple[float, float]


# Near the highest likelihood of leave-one-out predictions on 111 contours of four real studies, rounded. Outer contours
# have more noise than that, because they are fewer and some include the outflow tract.
_VARIATIONS = (
    _Variation(slice(0, 1), 1.0, 100.0, 8.0, (40.0, 10.0), (1.5, 1.5), (2.0, 5.0), (0.5, 0.8)),
    _Variation(slice(1, 3), 1.0, 100.0, 3.0, (8.0, 3.7), (1.0, 1.5), (1.3, 4.0), (1.0, 1.2)),
    _Variation(slice(3, 5), 0.5, 1.0, 0.5, (0.6, 1.1), (0.4, 1.2), (0.5, 1.8), (0.4, 0.5)),
)

_BEAT_LENGTH = 0.8
"""How long a beat keeps its state, in radians of the cycle."""


def _coordinates(pairs: Sequence[PlannedPair], phases: int, slice_spacing_mm: float) -> npt.NDArray[np.float64]:
    """Slice, phase and kind of each contour, float64 ``(n, 3)``: in slices of 9 mm, in radians, and 0 or 1."""
    thickness = 1.0 if math.isnan(slice_spacing_mm) else slice_spacing_mm / _SLICE_MM
    normals = {pair.slice_index: pair.normal for pair in pairs}
    stack, offset = 0, {}
    for before, index in itertools.pairwise([min(normals), *sorted(normals)]):
        one, other = normals[before], normals[index]
        if one is not None and other is not None and abs(np.dot(one, other)) < _PARALLEL:
            stack += 1
        offset[index] = stack * _APART
    return np.array(
        [
            (
                pair.slice_index * thickness + offset[pair.slice_index],
                2 * math.pi * pair.phase_index / max(phases, pair.phase_index + 1),
                pair.kind == "o",
            )
            for pair in pairs
        ],
        np.float64,
    )


def _covariance(variation: _Variation, at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The prior covariance of a quantity at some coordinates, float64 ``(n, n)``."""
    along, phase, kind = (np.subtract.outer(column, column) for column in at.T)
    same_stack, same_kind, chord = np.abs(along) < _APART / 2, kind == 0, 2 * np.sin(phase / 2)

    def smooth(strength: tuple[float, float]) -> npt.NDArray[np.float64]:
        return np.asarray(strength[0] ** 2 * np.exp(-((along / strength[1]) ** 2) / 2))

    return np.asarray(
        variation.level**2 * same_stack
        + variation.kinds**2 * same_kind * same_stack
        + smooth(variation.slices)
        + smooth(variation.wall) * same_kind
        + smooth(variation.beat) * np.exp(-((chord / _BEAT_LENGTH) ** 2) / 2) * same_kind
        + np.diag(np.choose(at[:, 2] > 0, variation.noise) ** 2)
    )


def _against_neighbors(
    shapes: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compares shapes ``(n, 5)`` with what the others predict.

    Returns:
        How far they are off, ``(n, 5)``; the variances of the predictions and the evidence by quantity, ``(n, 3)``.
    """
    shapes = shapes - np.array([*np.median(shapes[:, :3], axis=0), 0, 0])
    precisions = [np.linalg.inv(_covariance(variation, at)) for variation in _VARIATIONS]
    trusted = np.ones(len(shapes), np.bool_)
    while True:
        residuals = np.empty_like(shapes)
        evidence, errors = np.empty((2, len(shapes), len(_VARIATIONS)))
        for index, (variation, precision) in enumerate(zip(_VARIATIONS, precisions, strict=True)):
            diagonal = np.diag(precision)
            residual = precision @ shapes[:, variation.columns] / diagonal[:, None]
            residuals[:, variation.columns] = residual
            # Noise that was added to a contour to leave it out is not part of the error of its prediction.
            errors[:, index] = 1 / diagonal - _LEFT_OUT * ~trusted
            evidence[:, index] = variation.weight * (residual**2).sum(axis=1) / errors[:, index]
        excess = max(1.0, float(np.median(evidence.sum(axis=1)[trusted])) / _TYPICAL)
        evidence, errors = evidence / excess, errors * excess
        worst = int(np.where(trusted, evidence.sum(axis=1), -1).argmax())
        if evidence[worst].sum() <= _FAR_OFF or 2 * trusted.sum() <= len(shapes) + 1:
            return residuals, errors, evidence
        trusted[worst] = False
        for precision in precisions:
            # Sherman and Morrison: the inverse after noise is added to one observation.
            column = precision[:, worst].copy()
            precision -= np.outer(column, column) * (_LEFT_OUT / (1 + _LEFT_OUT * column[worst]))


def _against_image(
    pairs: Sequence[PlannedPair],
    fits: Mapping[str, Fit],
    shapes: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The evidence of the image against each contour; below 0 where the image speaks for it.

    It is the highest, over sizes and positions, of what the image gains there, less what the neighbors say against it.
    """
    known = {
        index: fits[pair.contour_path]
        for index, pair in enumerate(pairs)
        if pair.contour_path in fits and not math.isnan(fits[pair.contour_path].own)
    }
    typical = float(np.median([fit.own for index, fit in known.items() if pairs[index].kind == "i"] or [0]))
    typical = max(typical, STUDY_CONTRAST)
    evidence = np.zeros(len(pairs))
    for index, fit in known.items():
        dx, dy = (expected[index, 1:3] - shapes[index, 1:3]) / steps[index]
        scale, radius = max(expected[index, 0], 0.0) / shapes[index, 0], shapes[index, 0] / steps[index]
        if pairs[index].kind == "i":
            gain = _GAIN_WEIGHT / typical * (fit.moved - fit.own)
            loss = _LOSS_WEIGHT * max(0.0, 1 - fit.own / typical) ** 2
        else:
            gain = 2 * _INDEPENDENT * np.log((_LEAST_DEVIATION - fit.own) / (_LEAST_DEVIATION - fit.moved))
            loss = 0.0
        of_size, of_center = errors[index, :2]
        # Where the neighbors say little, a better edge nearby may be any other.
        gain *= min(1.0, _PREDICTED / max(of_size, of_center))
        weights = _weights(scale, SCALES), _weights(dy, MOVES), _weights(dx, MOVES)
        there = float(np.einsum("sij,s,i,j", gain, *weights))
        sizes = ((SCALES - scale) * radius) ** 2 / of_size
        moves = np.add.outer((MOVES - dy) ** 2, (MOVES - dx) ** 2) / of_center
        evidence[index] = max(there, float((gain - np.add.outer(sizes, moves)).max())) + loss
    return evidence


def _weights(value: float, nodes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each node contributes to the linear interpolation at a value; the nearest node beyond the ends."""
    return np.array([np.interp(value, nodes, one) for one in np.eye(len(nodes))])


def _turned(pairs: Sequence[PlannedPair]) -> npt.NDArray[np.bool_]:
    """Whether a contour goes around in one direction and nearly all others of the study in the other."""
    clockwise = np.array([pair.clockwise for pair in pairs], np.bool_)
    few = clockwise if 2 * clockwise.sum() <= len(pairs) else ~clockwise
    return np.asarray(few & (len(pairs) >= _UNANIMOUS) & (few.sum() <= max(1, len(pairs) // 20)))


class _Rows(NamedTuple):
    """Contours of a kind that lie in a row: by slice, and by phase."""

    of_slice: Mapping[tuple[ContourKind, int], Sequence[PlannedPair]]
    of_phase: Mapping[tuple[ContourKind, int], Sequence[PlannedPair]]

    @classmethod
    def of(cls, pairs: Sequence[PlannedPair]) -> _Rows:
        of_slice, of_phase = collections.defaultdict(list), collections.defaultdict(list)
        for pair in pairs:
            of_slice[pair.kind, pair.slice_index].append(pair)
            of_phase[pair.kind, pair.phase_index].append(pair)
        return cls(of_slice, of_phase)


def _of_size(pair: PlannedPair, rows: _Rows, expected_area_px: float) -> str:
    """The area of a contour, the expected one, and those of the nearest plausible contours of its slice and phase."""
    in_phase = rows.of_slice.get((pair.kind, pair.slice_index), ())
    in_slice = rows.of_phase.get((pair.kind, pair.phase_index), ())
    nearest = {
        "phase": sorted(in_phase, key=lambda other: abs(other.phase_index - pair.phase_index))[:2],
        "slice": sorted(in_slice, key=lambda other: abs(other.slice_index - pair.slice_index))[:2],
    }
    beside = []
    for name, others in nearest.items():
        areas = [f"{area:,.0f}" for area in sorted(other.area_px for other in others)]
        if areas:
            beside.append(f"in {name} {' to '.join(dict.fromkeys(areas))}")
    text = f"{pair.area_px:,.0f} px², where its neighbors suggest {expected_area_px:,.0f}"
    return f"{text} ({', '.join(beside)})" if beside else text


def _of_center(shape: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> str:
    dx, dy = shape[1:3] - expected[1:3]
    return f"its center lies {math.hypot(dx, dy):.1f} px from where its neighbors suggest ({_direction(dx, dy)})"


def _of_elongation(shape: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> str:
    """The ratio of the axes and the direction of the long one, which follows from the doubled angle."""
    own, other = (min(0.9, math.hypot(*one[3:]) / max(one[0], 1)) for one in (shape, expected))
    turn = math.degrees(math.atan2(shape[4], shape[3]) - math.atan2(expected[4], expected[3])) / 2
    return (
        f"its long axis is {(1 + own) / (1 - own):.2f} times the short one, where its neighbors suggest "
        f"{(1 + other) / (1 - other):.2f}, and lies {abs((turn + 90) % 180 - 90):.0f}° from theirs"
    )


def _direction(dx: float, dy: float) -> str:
    """A move in words, in pixels: (0, 0) is at the top left."""
    parts = [
        f"{abs(move):.0f} px {names[int(move > 0)]}"
        for move, names in ((dx, ("left", "right")), (dy, ("up", "down")))
        if abs(move) >= 0.5
    ]
    return ", ".join(parts) or "under 1 px"


def _of_image(kind: ContourKind, fit: Fit, others: Sequence[float], step: float) -> str:
    """How a contour lies on its image, how the study's plausible ones do, and where it would fit better."""
    if kind == "i":
        text, sign = "the contrast of its image along the contour is", 1
    else:
        text, sign = "the standard deviation of its image just inside the contour is", -1
    text += f" {_signed(sign * fit.own)}"
    if others:
        low, high = sorted((sign * min(others), sign * max(others)))
        text += f", that of the study's others {low:.2f} to {high:.2f}"
    scale, row, column = (int(one) for one in np.unravel_index(fit.moved.argmax(), fit.moved.shape))
    changes = []
    if (row, column) != (UNMOVED, UNMOVED):
        changes.append(f"moved {_direction(MOVES[column] * step, MOVES[row] * step)}")
    if scale != UNSCALED:
        changes.append(f"scaled by {SCALES[scale]:g}")
    if changes:
        text += f"; it would be {_signed(sign * fit.moved.max())} if the contour were {' and '.join(changes)}"
    return text


def _signed(value: float) -> str:
    """With two decimals, and without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"
