"""The contours of a study, whatever files they are in."""

from __future__ import annotations

from collections.abc import Callable

from preprocess.findings import InputError, Reason, about
from preprocess.geometry import Polygon, polygons
from preprocess.inputs import contours
from preprocess.inputs.sources import Source, opened
from preprocess.inputs.structure_sets import ContourName, StructureSet
from preprocess.model import ImageHeader, Origin


class ContourFiles:
    """Reads contours by path. A structure set is read once.

    Args:
        source: the data set.
        origin: which point of the top-left pixel is (0, 0) in text files.
    """

    def __init__(self, source: Source, origin: Origin) -> None:
        self._source = source
        self._origin = origin
        self._structure_sets: dict[str, StructureSet] = {}

    def read(self, path: str, image: Callable[[], ImageHeader | None], known: bytes | None = None) -> Polygon:
        """Reads one contour.

        Args:
            path: of the contour, as in :class:`preprocess.model.Study`.
            image: gives the header of its image, which a structure set refers to; None if the image cannot be read.
            known: ``polygons.digest`` of the contour, if it was read before.

        Returns:
            float64 ``(N, 2)``, columns x and y in pixels; (0, 0) is the outer corner of the top-left pixel.

        Raises:
            InputError: the contour cannot be used, or has changed since it was read before; it has the path.
        """
        polygon = self._read(path, image, known)
        if known is not None and polygons.digest(polygon) != known:
            with about(path):
                raise InputError(Reason.CHANGED_CONTOUR, "it changed while the job ran")
        return polygon

    def _read(self, path: str, image: Callable[[], ImageHeader | None], known: bytes | None) -> Polygon:
        name = ContourName.parse(path)
        if name is None:
            with opened(self._source, path, Reason.UNREADABLE_CONTOUR) as file:
                return contours.read_contour(file, self._origin, known)
        with about(path):
            header = image()
            if header is None:
                raise InputError(Reason.NO_IMAGE, "its image cannot be used")
            if name.file not in self._structure_sets:
                with opened(self._source, name.file, Reason.UNREADABLE_CONTOUR) as file:
                    self._structure_sets[name.file] = StructureSet.read(file)
            return self._structure_sets[name.file].polygon(name.roi_number, header)
