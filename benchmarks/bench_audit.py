"""Measures how often the audit finds a contour that is well-formed and wrong, and how often it accuses a correct one.

    python -m benchmarks.bench_audit --data_dir=final_data

One contour, or one whole study, is damaged at a time; all contours in turn, with a fixed seed. Before that, all are
taken to be correct. The built-in phantom has one that is not: there it is a "false accusation", and sets the thresholds
of the column "left out". Columns:

- found: the damaged contour is implausible (where two contours are exchanged, either of them), with the thresholds of
  ``preprocess.quality.plausibility``, which were chosen on the four studies of BUILD.md.
- left out: the same, with each threshold chosen on the other studies alone, by the rule that gave the fixed ones:
  their highest score and 0.5 more, or ¾ of their lowest contrast. The constants of the prediction are the same.
- others: how many undamaged contours are accused at the same time, on average.
- instead: how often the undamaged contour of the other kind on the same image is accused, and the damaged one is not.

"A quarter at once" damages a quarter of a study's contours of a kind, several times; each damaged one is counted.

"Mirrored" is about the middle of the image: x becomes width − x. A program that does this to points reverses the
direction in which they go around, and the audit sees that; "redrawn" are damages with the usual direction. A heart in
the middle of the image is nearly its own mirror image, and such a contour is nearly right.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.config import Config
from preprocess.dicom import reader
from preprocess.findings import Reason
from preprocess.geometry import Polygon
from preprocess.inputs import sources
from preprocess.inputs.sources import Source
from preprocess.layouts import challenge
from preprocess.model import ContourKind, Pair, Study
from preprocess.quality import plausibility
from preprocess.quality.contrast import Fit, measure
from preprocess.quality.measurements import planned
from preprocess.quality.plausibility import Contrast
from preprocess.stages.load import Loaded, load

_SCORE_MARGIN, _CONTRAST_SHARE = 0.5, 0.75
"""A threshold is the highest correct score and this more, or this share of the lowest correct contrast."""

_ROUNDS = 5

# By distance in slices, and the sign of the distance in phases.
_EXCHANGES = {
    (0, 1): "two phases exchanged",
    (1, 0): "two slices exchanged, next",
    (2, 0): "two slices exchanged, next but one",
}


class Images:
    """Reads images, each one once."""

    def __init__(self, source: Source, config: Config) -> None:
        self._source, self._config = source, config
        self._pixels: dict[str, npt.NDArray[np.generic]] = {}

    def __getitem__(self, path: str) -> npt.NDArray[np.generic]:
        if path not in self._pixels:
            with sources.opened(self._source, path, Reason.UNREADABLE_IMAGE) as file:
                self._pixels[path] = reader.read_pixels(file, self._config.max_image_pixels)
        return self._pixels[path]


@dataclasses.dataclass(frozen=True)
class Contoured:
    """A study with its contours and what was measured of them."""

    loaded: Loaded
    pairs: Sequence[Pair]
    fits: Mapping[str, Fit]

    @classmethod
    def of(cls, loaded: Loaded, pairs: Sequence[Pair], images: Images) -> Contoured:
        """Measures the contours."""
        fits = {pair.contour_path: _measured(pair, images) for pair in pairs}
        return cls(loaded, pairs, fits)

    def with_polygons(self, changed: Mapping[str, Polygon], images: Images) -> Contoured:
        """The study with other points in some of its contours, by path."""
        pairs = [
            dataclasses.replace(pair, polygon=changed[pair.contour_path]) if pair.contour_path in changed else pair
            for pair in self.pairs
        ]
        fits = {pair.contour_path: _measured(pair, images) for pair in pairs if pair.contour_path in changed}
        return Contoured(self.loaded, pairs, {**self.fits, **fits})

    def scores(self) -> dict[str, float]:
        """The score of each contour, by path."""
        summary = self.loaded.summary
        judged = plausibility.judge([*map(planned, self.pairs)], self.fits, summary.phases, summary.slice_spacing_mm)
        return {one.pair.contour_path: one.score for one in judged}

    def contrast(self) -> Contrast:
        """What decides whether the contours are of other images."""
        return plausibility.lowest_contrast(self.pairs, self.fits)


def _measured(pair: Pair, images: Images) -> Fit:
    return measure(images[pair.image_path], pair.polygon, pair.header, pair.kind)


class Damage(NamedTuple):
    """The scores of a study of which contours are damaged.

    Attributes:
        name: what was done.
        kind: of the damaged contours.
        study_id: of the study.
        paths: of the damaged contours.
        scores: of all contours of the study.
    """

    name: str
    kind: ContourKind
    study_id: str
    paths: frozenset[str]
    scores: Mapping[str, float]


def _scaled(polygon: Polygon, scale: float) -> Polygon:
    center = polygon.mean(axis=0)
    return np.asarray((polygon - center) * scale + center)


def _moved(polygon: Polygon, distance: float, rng: np.random.Generator) -> Polygon:
    angle = rng.uniform(0, 2 * math.pi)
    return np.asarray(polygon + distance * np.array([math.cos(angle), math.sin(angle)]))


def _damages(
    study: Contoured, pair: Pair, others: Sequence[Contoured], rng: np.random.Generator
) -> Iterator[tuple[str, dict[str, Polygon]]]:
    """Each way to damage a contour: its name, and the polygons that replace others, by path."""
    own, path = pair.polygon, pair.contour_path
    rows, columns = pair.header.shape
    flipped = {
        "x and y exchanged": own[:, ::-1],
        "mirrored, left and right": np.stack([columns - own[:, 0], own[:, 1]], axis=1),
        "mirrored, top and bottom": np.stack([own[:, 0], rows - own[:, 1]], axis=1),
    }
    for name, polygon in flipped.items():
        yield name, {path: polygon}
        yield f"{name}, redrawn", {path: polygon[::-1]}
    for distance in (3, 5, 8):
        yield f"moved by {distance} pixels", {path: _moved(own, distance, rng)}
    for scale in (0.65, 0.8, 1.2, 1.35):
        yield f"scaled by {scale}", {path: _scaled(own, scale)}
    strangers = [one for other in others for one in other.pairs if one.kind == pair.kind]
    if strangers:
        yield "another patient's", {path: strangers[rng.integers(len(strangers))].polygon}
    first = int(rng.integers(len(own)))
    yield "half of its points", {path: np.roll(own, -first, axis=0)[: len(own) // 2]}
    for other in study.pairs:
        if other.kind != pair.kind and other.instance_number == pair.instance_number:
            yield ("outer as inner" if pair.kind == "i" else "inner as outer"), {path: other.polygon}
        exchange = _EXCHANGES.get((other.slice_index - pair.slice_index, np.sign(other.phase_index - pair.phase_index)))
        if other.kind == pair.kind and exchange:
            yield exchange, {path: other.polygon, other.contour_path: own}


def _many_damages(studies: Sequence[Contoured], images: Images, rng: np.random.Generator) -> Iterator[Damage]:
    """A quarter of a study's contours of a kind is damaged at once: one row for each of them."""
    kinds: tuple[ContourKind, ...] = ("i", "o")
    for kind, study in itertools.product(kinds, studies):
        pairs = [pair for pair in study.pairs if pair.kind == kind]
        others = [other for other in studies if other is not study]
        for name in ("another patient's", "moved by 8 pixels", "scaled by 1.35"):
            for _ in range(_ROUNDS):
                changed: dict[str, Polygon] = {}
                for index in rng.choice(len(pairs), math.ceil(len(pairs) / 4), replace=False):
                    changed |= dict(_damages(study, pairs[index], others, rng)).get(name, {})
                scores = study.with_polygons(changed, images).scores()
                sound = {path: score for path, score in scores.items() if path not in changed}
                for path in changed:
                    study_id = study.loaded.study.study_id
                    alone = {**sound, path: scores[path]}
                    yield Damage(f"a quarter at once: {name}", kind, study_id, frozenset([path]), alone)


def _whole_study(
    studies: Sequence[Contoured], source: Source, config: Config, images: Images
) -> Iterator[tuple[str, str, Contrast]]:
    """Each way to damage a whole study: its name, the study of the contours, and the contrast that decides."""
    for study in studies:
        own = study.loaded.study
        numbers = {kind: {number + 1: path for number, path in paths.items()} for kind, paths in own.contours.items()}
        yield "numbers one too high", own.study_id, _contrast_of(_with(own, numbers), source, config, images)
        exchanged = {pair.contour_path: pair.polygon[:, ::-1] for pair in study.pairs}
        yield "x and y exchanged", own.study_id, study.with_polygons(exchanged, images).contrast()
        for other in studies:
            if other is not study:
                images_of = other.loaded.study
                contrast = _contrast_of(_with(images_of, own.contours), source, config, images)
                yield "on another study's images", own.study_id, contrast


def _with(study: Study, contours: Mapping[ContourKind, Mapping[int, str]]) -> Study:
    return dataclasses.replace(study, contours=contours)


def _contrast_of(study: Study, source: Source, config: Config, images: Images) -> Contrast:
    loaded = load(source, config, study)
    return Contoured.of(loaded, loaded.pairs["i"], images).contrast()


def _without(values: Mapping[str, float | Sequence[float]], study_id: str) -> npt.NDArray[np.float64]:
    return np.hstack([value for other, value in values.items() if other != study_id])


def _print_contours(studies: Sequence[Contoured], damages: Sequence[Damage]) -> None:
    """The table of damages to one contour."""
    correct = {study.loaded.study.study_id: study.scores() for study in studies}
    fixed = dict.fromkeys(correct, plausibility.THRESHOLD)
    others = {
        study_id: float(_without({one: [*scores.values()] for one, scores in correct.items()}, study_id).max())
        + _SCORE_MARGIN
        for study_id in correct
    }
    chosen = ", ".join(f"{study} left out {threshold:.1f}" for study, threshold in others.items())
    print(f"Thresholds: fixed {plausibility.THRESHOLD}; {chosen}.\n")
    kind_of = {pair.contour_path: pair.kind for study in studies for pair in study.pairs}
    both = itertools.permutations((pair for study in studies for pair in study.pairs), 2)
    partner = {one.contour_path: other.contour_path for one, other in both if one.key == other.key}
    print("| contour | damage | tried | found | left out | others | instead |\n|---|---|---|---|---|---|---|")
    for kind, label in (("i", "inner"), ("o", "outer")):
        scores = [
            (study_id, score)
            for study_id, by_path in correct.items()
            for path, score in by_path.items()
            if kind_of[path] == kind
        ]
        if not scores:
            continue
        accused = [sum(score > limits[study_id] for study_id, score in scores) for limits in (fixed, others)]
        print(f"| {label} | none (false accusations) | {len(scores)} | {_share(accused[0], len(scores))} | ", end="")
        print(f"{_share(accused[1], len(scores))} | | |")
        groups: dict[str, list[Damage]] = collections.defaultdict(list)
        for damage in damages:
            if damage.kind == kind:
                groups[damage.name].append(damage)
        for name, group in groups.items():
            found = [
                sum(max(one.scores[path] for path in one.paths) > limits[one.study_id] for one in group)
                for limits in (fixed, others)
            ]
            beside = sum(
                score > plausibility.THRESHOLD >= correct[one.study_id][path]
                for one in group
                for path, score in one.scores.items()
                if path not in one.paths
            )
            instead = sum(
                max(one.scores[path] for path in one.paths) <= plausibility.THRESHOLD
                and any(
                    one.scores.get(partner[path], 0) > plausibility.THRESHOLD for path in one.paths & partner.keys()
                )
                for one in group
            )
            print(f"| {label} | {name} | {len(group)} | {_share(found[0], len(group))} | ", end="")
            print(f"{_share(found[1], len(group))} | {beside / len(group):.2f} | {instead} |")


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})"


def _print_studies(studies: Sequence[Contoured], damages: Sequence[tuple[str, str, Contrast]]) -> None:
    """The table of damages to a whole study."""
    correct = {study.loaded.study.study_id: study.contrast() for study in studies}
    contrasts = {study_id: one.contrast for study_id, one in correct.items()}
    limits = {study_id: float(_without(contrasts, study_id).min()) * _CONTRAST_SHARE for study_id in correct}
    lowest = ", ".join(f"{name} {value:.2f}" for name, value in contrasts.items())
    chosen = ", ".join(f"{name} left out {limit:.2f}" for name, limit in limits.items())
    print(
        f"\nLowest median contrast of a phase: {lowest}. Thresholds: fixed {plausibility.STUDY_CONTRAST}; {chosen}.\n"
    )
    print("| whole study | tried | found | left out | contrast |\n|---|---|---|---|---|")
    groups: dict[str, list[tuple[str, Contrast]]] = collections.defaultdict(list)
    groups["none (false accusations)"] = [*correct.items()]
    for name, study_id, contrast in damages:
        groups[name].append((study_id, contrast))
    for name, group in groups.items():
        fixed = sum(contrast.is_of_other_images() for _, contrast in group)
        left_out = sum(contrast.is_of_other_images(limits[study_id]) for study_id, contrast in group)
        values = [contrast.contrast for _, contrast in group]
        print(f"| {name} | {len(group)} | {_share(fixed, len(group))} | {_share(left_out, len(group))} | ", end="")
        print(f"{min(values):.2f} to {max(values):.2f} |")


def _print_time(studies: Sequence[Contoured], images: Images) -> None:
    inner = [pair for study in studies for pair in study.pairs if pair.kind == "i"]
    times = []
    for pair in inner:
        begin = time.perf_counter()
        _measured(pair, images)
        times.append(time.perf_counter() - begin)
    print(f"\nMeasuring a contour takes {1000 * np.median(times):.2f} ms (median of {len(inner)}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder or zip of studies, as for python -m preprocess")
    parser.add_argument("--seed", type=int, default=0, help="of moves, halves and other patients' contours (0)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    config = Config(pathlib.Path(arguments.data_dir), pathlib.Path(tempfile.gettempdir()) / "unused")
    with sources.unchanged(config.data_dir) as source:
        images = Images(source, config)
        found = challenge.discover(source)[0]
        if len(found) < 2:
            parser.error(
                f"{source.name} has {len(found)} studies, at least 2 expected, because each is left out in turn"
            )
        loaded = [load(source, config, study) for study in found]
        studies = [Contoured.of(one, [*one.pairs["i"], *one.pairs["o"]], images) for one in loaded]
        damages = []
        for study in studies:
            others = [other for other in studies if other is not study]
            for pair in study.pairs:
                for name, changed in _damages(study, pair, others, rng):
                    scores = study.with_polygons(changed, images).scores()
                    study_id = study.loaded.study.study_id
                    damages.append(Damage(name, pair.kind, study_id, frozenset(changed), scores))
        damages += _many_damages(studies, images, rng)
        _print_contours(studies, damages)
        _print_studies(studies, [*_whole_study(studies, source, config, images)])
        _print_time(studies, images)


if __name__ == "__main__":
    main()
