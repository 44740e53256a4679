"""Numbers of images and contours within a study."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from preprocess.findings import Finding, Reason


def unique(
    reason: Reason, study_id: str, numbered: Iterable[tuple[int, str]], contour: str = ""
) -> tuple[dict[int, str], list[Finding]]:
    """Paths by number, without the numbers that several paths share, because the right one cannot be determined.

    Args:
        reason: of the findings.
        study_id: the study.
        numbered: number and path of each image, or of each contour of one kind.
        contour: the kind of the contours; empty for images.

    Returns:
        The paths, sorted by number, and a finding for each path that shares its number.
    """
    paths: dict[int, list[str]] = collections.defaultdict(list)
    for number, path in numbered:
        paths[number].append(path)
    kind = "contour" if contour else "image"
    findings = [
        Finding(reason, kind, path, f"{len(same)} files have the number {number}", study_id, number, contour=contour)
        for number, same in sorted(paths.items())
        if len(same) > 1
        for path in same
    ]
    return {number: same[0] for number, same in sorted(paths.items()) if len(same) == 1}, findings
