"""Checks of contours and images against each other: copies, contours that do not nest, contours off their images.

A check returns its findings. A contour or an image with a finding of level ``error`` is left out.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from preprocess.findings import Finding, Level, Reason, counted, some
from preprocess.geometry import polygons, regions
from preprocess.model import Key, Match, Pair, PlannedPair
from preprocess.quality.measurements import StudyRow
from preprocess.quality.plausibility import Judgement
from preprocess.quality.volumes import Volumes

OUTSIDE_WARNING, OUTSIDE_ERROR = 0.005, 0.05
"""Share of an i-contour's area outside its o-contour."""

MISREGISTERED_PX = 2.0

_PHASES_NAMED = 3

OPEN_STEPS = 3.0
"""Allowed gap between last and first point, in longest steps of the contour. None of 111 real contours exceeds 1."""


def self_intersecting(pairs: Iterable[Pair]) -> list[Finding]:
    """Contours that cross themselves, and those of several parts or with a hole."""
    crossing = "the polygon crosses itself; every part that it goes around is inside (nonzero winding rule)"
    parts = "it has several parts or a hole; the inner and the outer wall of a ventricle are one closed line each"
    return [
        _of_contour(Reason.SEVERAL_PARTS, pair, parts)
        if regions.has_bridges(pair.polygon)
        else _of_contour(Reason.SELF_INTERSECTING, pair, crossing)
        for pair in pairs
        if polygons.crosses_itself(pair.polygon)
    ]


def open_contours(pairs: Iterable[Pair]) -> list[Finding]:
    """Contours that do not return to their first point, as in a file that is cut off."""
    findings = []
    for pair in pairs:
        closing, *steps = np.hypot(*(pair.polygon - np.roll(pair.polygon, 1, axis=0)).T)
        # In a file cut off within a number the last point is wrong, so the step to it does not count.
        longest = max(steps[:-1], default=closing)
        if closing > OPEN_STEPS * longest:
            detail = (
                f"its last point lies {closing:.1f} pixels from its first, and its steps are at most {longest:.1f} "
                "pixels long"
            )
            findings.append(_of_contour(Reason.OPEN_CONTOUR, pair, detail))
    return findings


def duplicate_images(pairs: Iterable[PlannedPair]) -> list[Finding]:
    """Images, by path, whose pixels are the same bytes: which contour belongs to them is unknown."""
    by_path = {pair.image_path: pair for pair in pairs}
    groups: dict[bytes, list[PlannedPair]] = collections.defaultdict(list)
    for pair in sorted(by_path.values(), key=lambda pair: pair.image_path):
        groups[pair.fingerprint.pixels].append(pair)
    findings = []
    for same in groups.values():
        paths = [pair.image_path for pair in same]
        for pair in same if len(same) > 1 else ():
            detail = f"the same pixels as {_copies(pair.image_path, paths)}"
            findings.append(Finding(Reason.DUPLICATE_IMAGE, "image", pair.image_path, detail, *pair.key))
    return findings


def mixed_photometric(written: Iterable[PlannedPair]) -> list[Finding]:
    """Studies with images of another Photometric Interpretation than most images of the data set, MONOCHROME2 on a tie.

    Values are written as they are, so blood is bright in one kind of image and dark in the other.
    """
    studies: dict[str, list[PlannedPair]] = collections.defaultdict(list)
    for pair in written:
        studies[pair.study_id].append(pair)
    ones = sum(pair.monochrome1 for pairs in studies.values() for pair in pairs)
    common = 2 * ones > sum(map(len, studies.values()))
    names = "MONOCHROME2", "MONOCHROME1"
    findings = []
    for study_id, pairs in studies.items():
        others = [pair for pair in pairs if pair.monochrome1 != common]
        if others:
            detail = (
                f"{len(others)} of {len(pairs)} images written are {names[not common]}, most of the data set are "
                f"{names[common]}, and bright and dark are exchanged between them"
            )
            folder = others[0].image_path.rpartition("/")[0]
            findings.append(Finding(Reason.MIXED_PHOTOMETRIC, "study", folder, detail, study_id))
    return findings


def single_contours(inner: Mapping[Key, str], outer: Mapping[Key, str]) -> list[Finding]:
    """Studies with images that have one contour of two; each argument has the paths of the contours of a kind."""
    studies: dict[str, list[str]] = collections.defaultdict(list)
    contours = {**inner, **outer}
    for name, these, others in (("i", inner, outer), ("o", outer, inner)):
        numbers = collections.Counter(study_id for study_id, _ in these.keys() - others.keys())
        for study_id, number in numbers.items():
            studies[study_id].append(f"{counted(number, 'image')} with only an {name}-contour")
    folders = {study_id: path.rpartition("/")[0].rpartition("/")[0] for (study_id, _), path in contours.items()}
    return [
        Finding(Reason.SINGLE_CONTOUR, "study", folders[study_id], " and ".join(parts), study_id)
        for study_id, parts in studies.items()
    ]


def duplicate_contours(pairs: Iterable[PlannedPair], outside: Mapping[Key, float]) -> list[Finding]:
    """Contours of one kind with the same points, even if their files differ in line ends.

    Within a study, where contours are carried over from phase to phase, that is a warning. Across studies the owner is
    the study whose i-contours lie within the o-contours in question while the others' do not: a warning for it and an
    error for the others. When that does not single out one study, all are errors.

    Args:
        pairs: of one kind.
        outside: share of each i-contour's area outside its o-contour.
    """
    groups: dict[bytes, list[PlannedPair]] = collections.defaultdict(list)
    for pair in pairs:
        groups[pair.digest].append(pair)
    copies = [same for same in groups.values() if len(same) > 1]
    # Usually a whole set is copied. One contour may nest by chance; a whole set does not.
    shares: dict[str, list[float]] = collections.defaultdict(list)
    for same in copies:
        studies = {pair.study_id for pair in same}
        for pair in same:
            if len(studies) > 1 and pair.key in outside:
                shares[pair.study_id].append(outside[pair.key])
    fitting = {study_id for study_id, parts in shares.items() if sum(parts) / len(parts) <= OUTSIDE_ERROR}
    findings = []
    for same in copies:
        studies = {pair.study_id for pair in same}
        owners = studies & fitting if len(studies & fitting) == 1 and studies <= shares.keys() else set()
        paths = [pair.contour_path for pair in same]
        for pair in same:
            others = _copies(pair.contour_path, paths)
            if len(studies) == 1:
                level, what = Level.WARNING, "within one study"
            elif pair.study_id in owners:
                level, what = Level.WARNING, "and this study's i-contours lie within: it is the owner"
            elif owners:
                level, what = Level.ERROR, "and this study's i-contours do not lie within: it is not the owner"
            else:
                level, what = Level.ERROR, "and the owner cannot be determined"
            findings.append(_of_contour(Reason.DUPLICATE_CONTOUR, pair, f"the same points as {others}, {what}", level))
    return findings


def not_nested(inner: Iterable[PlannedPair], outside: Mapping[Key, float], copied: Mapping[Key, str]) -> list[Finding]:
    """I-contours that lie partly outside their o-contour.

    Where the o-contour is known to be another study's (``copied``: its path, by study and number), the finding names
    the o-contour, because the i-contour is not at fault.
    """
    findings = []
    for pair in inner:
        share = outside.get(pair.key, 0.0)
        if share <= OUTSIDE_WARNING:
            continue
        level = Level.ERROR if share > OUTSIDE_ERROR else Level.WARNING
        detail = f"{share:.1%} of the i-contour's area lies outside its o-contour"
        if pair.key in copied:
            path, kind, contour = copied[pair.key], "contour", "o"
        else:
            path, kind, contour = pair.contour_path, "pair", ""
        findings.append(Finding(Reason.NOT_NESTED, kind, path, detail, *pair.key, level=level, contour=contour))
    return findings


def volume_order(inner: Sequence[PlannedPair], volumes: Volumes) -> list[Finding]:
    """Slices of one study whose cavity is larger at end-systole than at end-diastole."""
    before = volumes.areas_px.get(volumes.end_diastole, {})
    after = volumes.areas_px.get(volumes.end_systole, {})
    findings = []
    for pair in inner:
        index = pair.slice_index
        if pair.phase_index == volumes.end_systole and index in before and after[index] > before[index]:
            detail = (
                f"slice {index}: {after[index]:.1f} square pixels at end-systole (phase {volumes.end_systole}), "
                f"{before[index]:.1f} at end-diastole (phase {volumes.end_diastole})"
            )
            findings.append(_of_contour(Reason.VOLUME_ORDER, pair, detail))
    return findings


def incomplete_volumes(volumes: Volumes, study_id: str, path: str) -> list[Finding]:
    """A study whose volumes lack slices, so that they and the ejection fraction are wrong."""
    if not volumes.missing:
        return []
    names = {volumes.end_diastole: " (end-diastole)", volumes.end_systole: " (end-systole)"}
    # The phases that the volumes are taken at come first; a study may have hundreds of others.
    phases = sorted(volumes.missing, key=lambda phase: (phase not in names, phase))
    where = "; ".join(
        f"slice{'s' * (len(slices) > 1)} {', '.join(map(str, slices))} at phase {phase}{names.get(phase, '')}"
        for phase, slices in ((phase, volumes.missing[phase]) for phase in sorted(phases[:_PHASES_NAMED]))
    )
    if len(phases) > _PHASES_NAMED:
        where += f", and at {len(phases) - _PHASES_NAMED} other phases"
    detail = (
        f"no i-contour could be used on {where} (counted from 0); a volume is a sum over slices, so the ejection "
        "fraction is wrong until these contours are there"
    )
    return [Finding(Reason.INCOMPLETE_VOLUMES, "study", path, detail, study_id)]


def misregistered(row: StudyRow, path: str) -> list[Finding]:
    """A study whose i-contours fit their images better when they are moved."""
    dx, dy = row.registration_peak_dx_px, row.registration_peak_dy_px
    # Without contours the distance is NaN, which is not greater.
    if not math.hypot(dx, dy) > MISREGISTERED_PX:
        return []
    detail = f"contrast across the i-contours peaks when they are moved by dx {dx:+g}, dy {dy:+g} pixels"
    return [Finding(Reason.MISREGISTERED, "study", path, detail, row.study_id)]


def implausible(judgements: Iterable[Judgement]) -> list[Finding]:
    """Contours that their neighbors, their image or the rest of their study contradict."""
    return [
        _of_contour(Reason.IMPLAUSIBLE_CONTOUR, judgement.pair, judgement.detail)
        for judgement in judgements
        if judgement.detail
    ]


def of_other_images(detail: str, row: StudyRow, path: str) -> list[Finding]:
    """A study whose i-contours were not drawn on its images, if ``detail`` says what shows it."""
    return [Finding(Reason.CONTOURS_OF_OTHER_IMAGES, "study", path, detail, row.study_id)] if detail else []


def _of_contour(reason: Reason, pair: Match, detail: str, level: Level | None = None) -> Finding:
    return Finding(reason, "contour", pair.contour_path, detail, *pair.key, level=level, contour=pair.kind)


def _copies(path: str, paths: Sequence[str]) -> str:
    """Names the other files, for the row of one of several equal files.

    The row of the first file names some and counts the rest; the other rows name the first file. So the audit grows
    with the number of files, not with its square.
    """
    first, *others = paths
    if path != first:
        return first if len(paths) == 2 else f"{first}, the first of {len(paths)} copies"
    return some(others)
