"""A DICOM RT Structure Set (PS3.3 A.19) → polygons on the images that it refers to."""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple, Self

from preprocess.findings import InputError, Reason
from preprocess.geometry import Polygon
from preprocess.model import ImageHeader

_PART = re.compile(r"(?P<file>.+)#roi(?P<roi>\d{1,9})-image\d{1,9}", re.ASCII | re.DOTALL)


class ContourName(NamedTuple):
    """Names the contours of one ROI on one image.

    Attributes:
        file: path of the structure set.
        roi_number: ROI Number (3006,0022).
    """

    file: str
    roi_number: int

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """From the path of a contour; None if the path is that of a file of its own."""
        match = _PART.fullmatch(path)
        return cls(match["file"], int(match["roi"])) if match else None

    def path(self, number: int) -> str:
        """The path of the contour on the image with a number."""
        return f"{self.file}#roi{self.roi_number}-image{number}"


class StructureSet:
    """The contours of a structure set, by ROI and image."""

    @classmethod
    def read(cls, file: BinaryIO) -> Self:
        """Reads a structure set.

        Raises:
            InputError: ``unreadable_contour`` or ``oversized_contour``.
        """
        raise InputError(Reason.UNREADABLE_CONTOUR, "structure sets are not read yet")

    def polygon(self, roi_number: int, header: ImageHeader) -> Polygon:
        """The region of an ROI on an image: float64 ``(N, 2)``, columns x and y in pixels from the outer corner.

        Raises:
            InputError: it has no such contour, or the contour cannot be used.
        """
        raise NotImplementedError
