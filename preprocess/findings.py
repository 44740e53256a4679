"""What is wrong with the input: the exception a stage raises, and the finding it becomes."""

from __future__ import annotations

import dataclasses

DATA_DIR = "--data_dir (make records DATA=…)"
"""How a data set is passed, for messages."""


class InputError(ValueError):
    """Something in the input that cannot be used.

    Args:
        path: the file or folder, relative to the data directory where it lies within.
        detail: field, value, what would be legal and what to do. Never text from a DICOM header.
        reason: the row of ``audit.LEVELS`` that this becomes; empty where it ends the whole job.
    """

    def __init__(self, path: str, detail: str, reason: str = "") -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the audit.

    Attributes:
        reason: a key of ``audit.LEVELS``.
        kind: ``study``, ``link``, ``image``, ``contour``, ``pair`` or ``file``.
        path: relative to the data directory.
        detail: what was found, and what to do.
        study_id: ``patient_id`` of the study, where one is concerned.
        instance_number: the number in the file's name, where one pair is concerned.
        level: ``error``, ``warning`` or ``info``, where it is not the reason's own in ``audit.LEVELS``.
        count: how many inputs it is about.
    """

    reason: str
    kind: str
    path: str
    detail: str
    study_id: str = ""
    instance_number: int | None = None
    level: str = ""
    count: int = 1

    @classmethod
    def of(cls, error: InputError, kind: str, study_id: str, instance_number: int) -> Finding:
        """The finding that an error about one file of a study becomes."""
        return cls(error.reason, kind, error.path, error.detail, study_id, instance_number)
