"""What can be wrong with the input: the reasons, the audit and its rows, and the two errors that stages raise."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Self

DATA_DIR = "--data_dir (make records DATA=…)"
"""How messages name the flag that passes a data set."""


class Level(enum.StrEnum):
    """How bad a finding is. What an error is about is not used; the others leave nothing out."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Reason(enum.StrEnum):
    """Every reason that a row of ``audit.csv`` can have, and the only place that spells it.

    The table of docs/AUDIT.md and the report's explanations come from it.

    Attributes:
        levels: the levels that its findings may have; the first is the default.
        meaning: what was found.
        remedy: what to do about it, unless the finding has a more specific remedy; empty when nothing is to be done.
    """

    levels: tuple[Level, ...]
    meaning: str
    remedy: str

    def __new__(cls, value: str, levels: tuple[Level, ...], meaning: str, remedy: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.levels, member.meaning, member.remedy = levels, meaning, remedy
        return member

    UNREADABLE_FOLDER = (
        "unreadable_folder",
        (Level.ERROR,),
        "a folder cannot be listed, so nothing in it is used",
        "make the folder readable",
    )
    CIRCULAR_LINK = (
        "circular_link",
        (Level.WARNING,),
        "a link leads to a folder that contains it, and is not followed",
        "remove the link",
    )
    MISSING_STUDY = (
        "missing_study",
        (Level.ERROR, Level.WARNING),
        "a study whose images or contours are missing: a row of `link.csv` names a folder that is not there, or only "
        "one of the two is there. A warning for images that have no contours and that no row names",
        "add the files or remove the row",
    )
    UNLINKED_STUDY = (
        "unlinked_study",
        (Level.WARNING,),
        "no row of `link.csv` names a folder, or its name is of no known patient",
        "add a row if you want the study",
    )
    BAD_LINK = (
        "bad_link",
        (Level.ERROR,),
        "a row of `link.csv` or `scd_patientdata.csv` is repeated, contradicts another one or the published names, or "
        "has an id that cannot be the name of a folder",
        "correct the row",
    )
    AMBIGUOUS_STUDY = (
        "ambiguous_study",
        (Level.ERROR,),
        "which of several series, or of several folders, a study's contours belong to cannot be determined, so nothing "
        "of the study is used",
        "keep the right one",
    )
    OTHER_CONTOURS = (
        "other_contours",
        (Level.INFO,),
        "contours of papillary muscles, of algorithms or of other experts, which are not used; one row for each study",
        "",
    )
    UNLABELED_IMAGES = (
        "unlabeled_images",
        (Level.INFO,),
        "images of a study have no contour; one row for each study",
        "",
    )
    SINGLE_CONTOUR = (
        "single_contour",
        (Level.INFO,),
        "images of a study have only an inner or only an outer contour, and label maps need both (`--contours=io`); "
        "one row for each study",
        "draw the other contour, if you want these images",
    )
    SAME_PATIENT = (
        "same_patient",
        (Level.WARNING,),
        "images of several studies have the same Patient ID, and a split may divide them",
        "name these studies in one split (--split=val=A+B)",
    )
    UNUSED_SERIES = (
        "unused_series",
        (Level.INFO,),
        "images of series, or of whole studies, on which no chosen ROI has a contour; one row for each study",
        "",
    )
    UNCONFIRMED = (
        "unconfirmed",
        (Level.INFO,),
        "paired images have no Patient ID or no Instance Number, or their Patient ID is of no study, so that only "
        "names confirm the pair; one row for each study",
        "look at the study in the report",
    )
    UNREADABLE_IMAGE = (
        "unreadable_image",
        (Level.ERROR,),
        "an image cannot be read, or contradicts its own header",
        "copy or export the file again",
    )
    UNREADABLE_CONTOUR = (
        "unreadable_contour",
        (Level.ERROR,),
        "a contour file cannot be read, or is cut off within a number",
        "copy or export the file again",
    )
    UNSUPPORTED_IMAGE = (
        "unsupported_image",
        (Level.ERROR,),
        "an image is of a kind that is not supported: color, several frames, no pixels, too many pixels, a codec that "
        "is not installed, or no Pixel Spacing where `--pixel_spacing_mm` needs it",
        "convert the image",
    )
    CHANGED_IMAGE = (
        "changed_image",
        (Level.ERROR,),
        "an image was replaced while the job ran",
        "run the job again",
    )
    CHANGED_CONTOUR = (
        "changed_contour",
        (Level.ERROR,),
        "a contour was replaced while the job ran",
        "run the job again",
    )
    HEADER_MISMATCH = (
        "header_mismatch",
        (Level.ERROR,),
        "Patient ID or Instance Number disagrees with the folder or the file name",
        "find out which of them is right, and correct the other",
    )
    DUPLICATE_IMAGE = (
        "duplicate_image",
        (Level.ERROR, Level.WARNING),
        "two images have the same pixels, or two files have the same number. A warning for a series that is a copy of "
        "the one that is used",
        "keep the right one",
    )
    NO_IMAGE = (
        "no_image",
        (Level.ERROR,),
        "the image of a contour is missing or cannot be used",
        "add the image or remove the contour",
    )
    DUPLICATE_CONTOUR = (
        "duplicate_contour",
        (Level.ERROR, Level.WARNING),
        "two contours have the same points, or two files have the same number. A warning within a study, and for the "
        "study whose inner contours lie inside the outer contours in question",
        "keep the right one",
    )
    DEGENERATE_CONTOUR = (
        "degenerate_contour",
        (Level.ERROR,),
        "a contour has fewer than three distinct points, or no pixel inside",
        "draw the contour again",
    )
    NONFINITE_CONTOUR = (
        "nonfinite_contour",
        (Level.ERROR,),
        "a coordinate is NaN or infinite",
        "export the contour again",
    )
    OVERSIZED_CONTOUR = (
        "oversized_contour",
        (Level.ERROR,),
        "a contour has too many points, parts or crossings to be an outline, or a structure set is too large",
        "draw the contour again, with fewer points",
    )
    OUTSIDE_IMAGE = (
        "outside_image",
        (Level.ERROR,),
        "a vertex lies more than a pixel outside the image",
        "check that the contour belongs to this image",
    )
    OFF_PLANE_CONTOUR = (
        "off_plane_contour",
        (Level.ERROR,),
        "a contour of an RT Structure Set lies more than half of Slice Thickness off the plane of its image",
        "check which image the contour belongs to, and export it again",
    )
    UNUSABLE_ROI = (
        "unusable_roi",
        (Level.ERROR, Level.WARNING),
        "contours of a chosen ROI do not say on which image they are drawn, or are points or open lines; a warning if "
        "the ROI has no contours. One row for each ROI of a structure set",
        "export the ROI again, as closed contours that refer to their images",
    )
    SELF_INTERSECTING = (
        "self_intersecting",
        (Level.WARNING,),
        "a contour crosses itself; every part that it goes around is inside (nonzero winding rule)",
        "look at it in the report",
    )
    SEVERAL_PARTS = (
        "several_parts",
        (Level.WARNING,),
        "a contour has several parts or a hole",
        "look at it in the report",
    )
    OPEN_CONTOUR = (
        "open_contour",
        (Level.WARNING,),
        "the gap between the last and the first point is more than three times the longest step",
        "check that the file is complete",
    )
    NOT_NESTED = (
        "not_nested",
        (Level.WARNING, Level.ERROR),
        "part of an inner contour's area lies outside its outer contour: over 0.5 % is a warning, over 5 % an error",
        "look at both contours in the report",
    )
    MISREGISTERED = (
        "misregistered",
        (Level.WARNING,),
        "the contrast across a study's inner contours is highest when all of them are moved by more than 2 pixels",
        "check which images the contours were drawn on, and --contour_origin",
    )
    IMPLAUSIBLE_CONTOUR = (
        "implausible_contour",
        (Level.WARNING,),
        "a contour that its neighbors in slice and phase, its image, or the rest of its study contradict",
        "look at it in the report; correct it, or leave it out with --exclude",
    )
    CONTOURS_OF_OTHER_IMAGES = (
        "contours_of_other_images",
        (Level.WARNING,),
        "the images of a study have no edge along its inner contours, or a stronger one when x and y are exchanged",
        "check the numbers in the file names, the row in link.csv, and the order of x and y",
    )
    VOLUME_ORDER = (
        "volume_order",
        (Level.WARNING,),
        "the cavity of a slice is larger at end-systole than at end-diastole",
        "look at both contours in the report",
    )
    MIXED_PHOTOMETRIC = (
        "mixed_photometric",
        (Level.WARNING,),
        "images of a study are MONOCHROME1 and most of the data set is MONOCHROME2, or the reverse; values are written "
        "as they are",
        "convert the images, or leave them out",
    )
    INCOMPLETE_VOLUMES = (
        "incomplete_volumes",
        (Level.WARNING,),
        "slices of a phase lack an inner contour, so that volumes and ejection fraction are wrong",
        "repair or add the contours",
    )
    SIZE_MISMATCH = (
        "size_mismatch",
        (Level.ERROR,),
        "an image differs in size from most images",
        "pass --image_size, and --pixel_spacing_mm where pixels differ in size",
    )
    EXCLUDED = (
        "excluded",
        (Level.INFO,),
        "`--exclude` names the contour",
        "",
    )
    UNMATCHED_EXCLUSION = (
        "unmatched_exclusion",
        (Level.WARNING,),
        "a row of `--exclude` names no contour",
        "correct the row, or remove it",
    )
    UNUSED_FILE = (
        "unused_file",
        (Level.WARNING,),
        "files look like images or contours and are not used because of their names or folders; "
        "one row for each folder",
        "rename or move the files",
    )
    JUNK = (
        "junk",
        (Level.INFO, Level.ERROR),
        "files that are not input, such as those of an operating system; one row for each folder. An error for entries "
        "of an archive that lead out of it",
        "",
    )


_ORDER = {reason: place for place, reason in enumerate(Reason)}


class FatalInputError(ValueError):
    """Something in the input or the settings ends the job.

    Args:
        path: the file, folder or flag.
        detail: what was found, what is expected, and what to do. Never text from a DICOM header.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.path, self.detail)


class InputError(ValueError):
    """One file cannot be used: it becomes a row of the audit, and the job goes on.

    The code that opened the file attaches its path with :func:`about`.

    Args:
        reason: why.
        detail: what was found, and what is expected. Never text from a DICOM header.
        remedy: what to do, where the reason's own remedy is not specific enough.
    """

    path = ""

    def __init__(self, reason: Reason, detail: str, remedy: str = "") -> None:
        super().__init__(reason, detail, remedy)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy or reason.remedy

    def __str__(self) -> str:
        text = _sentence(self.detail, self.remedy)
        return f"{self.path}: {text}" if self.path else text


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
    """Attaches a path, relative to the data directory, to an InputError that a ``with`` block raises without one."""
    try:
        yield
    except InputError as error:
        error.path = error.path or path
        raise


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the audit.

    Attributes:
        reason: why.
        kind: ``study``, ``link``, ``image``, ``contour``, ``pair`` or ``file``.
        path: relative to the data directory.
        detail: what was found.
        study_id: ``patient_id`` of the study, if the finding is about one.
        instance_number: the number in the file's name, if the finding is about one image, contour or pair.
        level: one of the reason's levels; by default the first.
        remedy: what to do; by default the reason's.
        contour: ``i`` or ``o`` if it is about one contour of this kind; empty if it is about an image, both contours of
            an image, or something else.
        left_out: it left a pair, a study or another input out of the records of this run.
    """

    reason: Reason
    kind: str
    path: str
    detail: str
    study_id: str = ""
    instance_number: int | None = None
    level: Level | None = dataclasses.field(default=None, kw_only=True)
    remedy: str = dataclasses.field(default="", kw_only=True)
    contour: str = dataclasses.field(default="", kw_only=True)
    left_out: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        level = self.level or self.reason.levels[0]
        if level not in self.reason.levels:
            raise ValueError(f"a finding with reason {self.reason} cannot have level {level}")
        object.__setattr__(self, "level", level)
        object.__setattr__(self, "remedy", self.remedy or self.reason.remedy)

    @classmethod
    def of(cls, error: InputError, study_id: str, instance_number: int, contour: str = "") -> Self:
        """Makes a finding from an error about one image of a study, or one contour of this kind."""
        kind = "contour" if contour else "image"
        return cls(
            error.reason, kind, error.path, error.detail, study_id, instance_number,
            remedy=error.remedy, contour=contour,
        )  # fmt: skip

    @property
    def text(self) -> str:
        """What was found, and what to do."""
        return _sentence(self.detail, self.remedy)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are, for a message."""
    return ", ".join([*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])])


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, for a message: ``1 file``, ``2 files``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _sentence(detail: str, remedy: str) -> str:
    return f"{detail}; {remedy}" if remedy else detail


COLUMNS = ("study_id", "kind", "path", "instance_number", "level", "reason", "detail", "contour", "left_out")


class Audit:
    """The findings of one run."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        """Adds findings, in any order."""
        self._findings.extend(findings)

    def settle(self, contour: str, pairs: Set[tuple[str, int]]) -> None:
        """Notes which errors left something out, once it is known what is written.

        Args:
            contour: the kind of contour that is written; ``io`` if both are.
            pairs: study and number of each pair that has no record and that the user did not exclude.
        """
        self._findings = [
            dataclasses.replace(
                finding,
                left_out=finding.level == Level.ERROR
                and finding.contour in contour
                and (finding.instance_number is None or (finding.study_id, finding.instance_number) in pairs),
            )
            for finding in self._findings
        ]

    def of_level(self, level: Level) -> list[Finding]:
        """The findings of a level, in the audit's order."""
        return [finding for finding in self.ordered() if finding.level == level]

    def left_out(self) -> list[Finding]:
        """A finding for each input that was left out. A pair that several errors left out counts once."""
        causes: dict[object, Finding] = {}
        for finding in self.of_level(Level.ERROR):
            if finding.left_out:
                number = finding.instance_number
                key = finding if number is None else (finding.study_id, number)
                causes[key] = min(causes.get(key, finding), finding, key=lambda cause: _ORDER[cause.reason])
        return list(causes.values())

    def rows(self) -> list[tuple[str | int | None, ...]]:
        """The rows of ``audit.csv``, in an order that depends only on the findings."""
        return [
            (
                finding.study_id, finding.kind, finding.path, finding.instance_number, str(finding.level),
                finding.reason.value, finding.text, finding.contour, int(finding.left_out),
            )
            for finding in self.ordered()
        ]  # fmt: skip

    def ordered(self) -> list[Finding]:
        """The findings, in an order that depends only on them."""
        return sorted(
            self._findings,
            key=lambda finding: (
                finding.study_id,
                -1 if finding.instance_number is None else finding.instance_number,
                finding.reason,
                finding.path,
                finding.detail,
            ),
        )


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings have each reason, the most frequent first."""
    return dict(collections.Counter(finding.reason.value for finding in findings).most_common())
