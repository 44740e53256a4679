"""RT Structure Sets: coordinates, regions, and files made to do harm."""

import io
import math
import pathlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
import pytest
import shapely
from pydicom.dataelem import RawDataElement
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from benchmarks.exact import pixel_areas
from preprocess.dicom import reader, sequences
from preprocess.findings import InputError
from preprocess.geometry import polygons
from preprocess.geometry.masks import rasterize
from preprocess.geometry.planes import Plane
from preprocess.inputs.contours import MAX_POINTS
from preprocess.inputs.structure_sets import MAX_PARTS, ContourName, StructureSet, is_structure_set
from preprocess.model import ImageHeader

from .helpers.dicom import LIMIT, get_testdata_file
from .helpers.structures import (
    COLUMN,
    NORMAL,
    POSITION,
    ROW,
    SHAPE,
    SPACING,
    SQUARE,
    THICKNESS,
    Ring,
    image,
    in_patient,
    outline,
    ring,
    saved,
    structure_set,
)

MIB = 1 << 20

A, B = "1.2.1.1", "1.2.1.2"


def read(dataset: pydicom.Dataset) -> StructureSet:
    return StructureSet.read(io.BytesIO(saved(dataset)))


def header_of(dataset: pydicom.Dataset) -> ImageHeader:
    return reader.read_header(io.BytesIO(saved(dataset)), LIMIT)


def polygon_of(*contours: pydicom.Dataset, **elements: Any) -> np.ndarray:
    return read(structure_set(LV=contours)).polygon(1, header_of(image(A, **elements)))


def square(left: float, top: float, size: float) -> Ring:
    return [(left, top), (left + size, top), (left + size, top + size), (left, top + size)]


def clear_pixels(expected: shapely.Geometry, doubt: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of which more than half lies in a region, and pixels that it does not halve; both ``(H, W)``."""
    areas = np.zeros(SHAPE)
    for part in shapely.get_parts(expected):
        areas += pixel_areas(shapely.get_coordinates(part.exterior)[:-1], SHAPE)
        for hole in part.interiors:
            areas -= pixel_areas(shapely.get_coordinates(hole)[:-1], SHAPE)
    return areas > 0.5, np.abs(areas - 0.5) > doubt


def assert_region(found: np.ndarray, expected: shapely.Geometry, doubt: float = 1e-3) -> None:
    """The mask is that of the region, but for pixels that it halves, up to a part of their area."""
    mask, clear = clear_pixels(expected, doubt)
    assert np.array_equal(rasterize(found, SHAPE)[clear], mask[clear])
    assert mask.any()


# Coordinates.


def test_points_are_projected_on_an_oblique_plane() -> None:
    """brianmanderson/Dicom_RT_and_Images_to_Mask#3, KeremTurgutlu/dicom-contour#11 and cerr/CERR#18: readers that
    ignore Image Orientation put contours beside the heart on every plane that is not axial.
    """
    assert np.abs(polygon_of(ring(A)) - SQUARE).max() < 1e-4


def test_the_distance_between_columns_is_the_step_along_a_row() -> None:
    """qurit/rt-utils#92: Pixel Spacing gives the distance between rows first, and a row steps by the other one."""
    flat: dict[str, Any] = {
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 0.5],
    }
    contour = outline(A, ["5", "20", "0", "15", "20", "0", "15", "60", "0"])
    assert polygon_of(contour, **flat).tolist() == [[10.5, 10.5], [30.5, 10.5], [30.5, 30.5]]


def test_the_position_of_an_image_is_the_center_of_its_first_pixel() -> None:
    """horosproject/horos#447 and JamesAPetts/ohif-viewer-XNAT-plugin#18: contours lie half a pixel up and left."""
    corner = POSITION - 0.5 * SPACING[1] * ROW - 0.5 * SPACING[0] * COLUMN
    far = corner + SPACING[1] * 10 * ROW
    down = corner + SPACING[0] * 10 * COLUMN
    points = [f"{value:.8g}" for point in (corner, far, down) for value in point]
    assert np.abs(polygon_of(outline(A, points)) - [(0, 0), (10, 0), (0, 10)]).max() < 1e-4


def test_each_image_has_its_own_plane() -> None:
    """e0404/matRad#104: the position of one image of the series is taken for all."""
    next_slice = POSITION + 8 * NORMAL + 3 * SPACING[1] * ROW
    found = read(structure_set(LV=[ring(A), ring(B, position=next_slice)]))
    for instance, position in ((A, POSITION), (B, next_slice)):
        polygon = found.polygon(1, header_of(image(instance, position=position)))
        assert np.abs(polygon - SQUARE).max() < 1e-4


@pytest.mark.parametrize("plane", range(8))
def test_a_plane_inverts_the_equation_of_the_standard(plane: int) -> None:
    rng = np.random.default_rng(plane)
    row, column = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
    # As scanners round them.
    row, column = np.round(row, 4), np.round(column, 4)
    position, spacing = rng.uniform(-400, 400, 3), tuple(rng.uniform(0.3, 4, 2))
    pixels = rng.uniform(-20, 300, (50, 2))
    i, j = (pixels - 0.5).T
    points = position + np.outer(i * spacing[1], row) + np.outer(j * spacing[0], column)
    found, distances = Plane(tuple(position), (*row, *column), spacing).project(points)
    assert np.abs(found - pixels).max() < 1e-9
    assert np.abs(distances).max() < 1e-9
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    moved, distances = Plane(tuple(position), (*row, *column), spacing).project(points + 2.5 * normal)
    assert np.abs(moved - pixels).max() < 1e-9
    assert distances == pytest.approx(np.full(50, 2.5))


@pytest.mark.parametrize(("off_mm", "allowed"), [(2.9, True), (-2.9, True), (3.1, False), (-3.1, False)])
def test_a_contour_lies_at_most_half_a_slice_off_its_image(off_mm: float, allowed: bool) -> None:
    contour = ring(A, off_mm=off_mm)
    if allowed:
        assert np.abs(polygon_of(contour) - SQUARE).max() < 1e-4
        return
    with pytest.raises(InputError, match=r"^it lies up to 3\.1 mm off the plane of its image, at most 3 mm") as raised:
        polygon_of(contour)
    assert raised.value.reason == "off_plane_contour"


@pytest.mark.parametrize("thickness", [None, 0, -8])
def test_without_slice_thickness_a_contour_lies_within_half_a_millimeter(thickness: float | None) -> None:
    assert len(polygon_of(ring(A, off_mm=0.4), SliceThickness=thickness)) == 4
    with pytest.raises(InputError, match=r"at most 0\.5 mm expected"):
        polygon_of(ring(A, off_mm=0.6), SliceThickness=thickness)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ImagePositionPatient": None}, "has no Image Position"),
        ({"ImageOrientationPatient": None}, "or no Image Orientation"),
        ({"PixelSpacing": None}, "or Pixel Spacing .* is missing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular unit vectors"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "not two perpendicular unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 2, 0]}, "not two perpendicular unit vectors"),
    ],
)
def test_an_image_without_a_plane_gets_no_contour(elements: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        polygon_of(ring(A), **elements)
    assert raised.value.reason == "no_image"


# Regions.


def test_a_nested_outline_is_a_hole() -> None:
    """pyplati/platipy#244, qurit/rt-utils#53, livingag/pyTG43#5: readers fill the holes of rings."""
    outer, inner = square(10, 5, 40), square(20, 15, 15)
    expected = shapely.difference(shapely.Polygon(outer), shapely.Polygon(inner))
    for contours in ((outer, inner), (inner, outer), (outer[::-1], inner), (outer, inner[::-1])):
        assert_region(polygon_of(*(ring(A, contour) for contour in contours)), expected)


def test_an_island_in_a_hole_is_inside() -> None:
    rings = [square(5, 5, 50), square(10, 10, 40), square(20, 20, 15)]
    outer, hole, island = map(shapely.Polygon, rings)
    expected = shapely.union(shapely.difference(outer, hole), island)
    assert_region(polygon_of(*(ring(A, contour) for contour in rings[::-1])), expected)


def test_outlines_beside_each_other_are_one_region() -> None:
    """livingag/pyTG43#5: the points of two outlines are joined as if they were one, which fills what lies between."""
    rings = [square(5, 5, 10), square(40, 30, 20), square(60, 5, 9)]
    expected = shapely.union_all([shapely.Polygon(contour) for contour in rings])
    assert_region(polygon_of(*(ring(A, contour) for contour in rings)), expected)


def test_outlines_that_overlap_add_up_unless_they_say_xor() -> None:
    """medical-physics-usz/z-rad#181: exclusive or is for CLOSEDPLANAR_XOR alone."""
    rings = [square(10, 10, 20), square(20, 20, 20)]
    one, other = map(shapely.Polygon, rings)
    assert_region(polygon_of(*(ring(A, contour) for contour in rings)), shapely.union(one, other))
    xor = polygon_of(*(ring(A, contour, "CLOSEDPLANAR_XOR") for contour in rings))
    assert_region(xor, shapely.symmetric_difference(one, other))


def test_an_outline_that_is_there_twice_counts_once() -> None:
    assert_region(polygon_of(ring(A), ring(A)), shapely.Polygon(SQUARE))


def test_outlines_that_cancel_each_other_are_no_region() -> None:
    with pytest.raises(InputError, match=r"^its 2 outlines leave no region") as raised:
        polygon_of(ring(A, kind="CLOSEDPLANAR_XOR"), ring(A, kind="CLOSEDPLANAR_XOR"))
    assert raised.value.reason == "degenerate_contour"


def test_a_keyhole_is_one_outline_with_a_hole() -> None:
    """PS3.3 C.8.8.6.3 (SlicerRt/SlicerRT#171): one outline that goes along a bridge to the hole and back."""
    outer, inner = square(10, 5, 40), square(20, 15, 15)
    keyhole = [*outer, outer[0], *inner[:1], *inner[:0:-1], inner[0]]
    expected = shapely.difference(shapely.Polygon(outer), shapely.Polygon(inner))
    assert_region(polygon_of(ring(A, keyhole)), expected)


@pytest.mark.parametrize("seed", range(10))
def test_any_outlines_that_are_combined_by_xor_give_their_symmetric_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rings, expected = [], shapely.Polygon()
    for _ in range(rng.integers(2, 5)):
        angles = np.sort(rng.uniform(0, 2 * math.pi, 12))
        points = rng.uniform((20, 20), (60, 40)) + rng.uniform(5, 15, (12, 1)) * np.c_[np.cos(angles), np.sin(angles)]
        rings.append([(round(x, 3), round(y, 3)) for x, y in points])
        expected = shapely.symmetric_difference(expected, shapely.Polygon(rings[-1]).buffer(0))
    found = polygon_of(*(ring(A, contour, "CLOSEDPLANAR_XOR") for contour in rings))
    # geometry/masks.py states its error.
    assert_region(found, expected, doubt=0.1)
    assert shapely.area(polygons.region(found)) == pytest.approx(shapely.area(expected), abs=1e-3)


def test_outlines_that_meet_too_often_to_be_combined_are_refused() -> None:
    """Two combs across each other: each has few crossings, and their union has 100,000."""
    y = np.linspace(5, 45, 320).repeat(2)
    fingers = np.stack([np.tile([6, 45, 45, 6], 160), y], axis=1)
    one = [*map(tuple, fingers), (5, 45), (5, 5)]
    with pytest.raises(InputError, match=r"the outlines on its image meet \d+ times, at most 10000") as raised:
        polygon_of(ring(A, one), ring(A, [(y, x) for x, y in one]))
    assert raised.value.reason == "oversized_contour"


def test_one_region_of_many_parts_is_refused() -> None:
    parts = [ring(A, square(3 * number + 1, 5, 2)) for number in range(MAX_PARTS + 1)]
    with pytest.raises(InputError, match=rf"^{MAX_PARTS + 1} outlines on one image, at most {MAX_PARTS}") as raised:
        polygon_of(*parts)
    assert raised.value.reason == "oversized_contour"
    assert rasterize(polygon_of(*parts[:-1]), SHAPE).sum() == 4 * MAX_PARTS


# What a structure set says.


def test_rois_are_listed_with_what_their_contours_refer_to() -> None:
    contours = [
        ring(A),
        ring(A, square(1, 1, 4)),
        ring(B),
        outline(None, in_patient(SQUARE)),
        outline(A, in_patient(SQUARE[:1]), "POINT"),
        outline(A, in_patient(SQUARE), "OPEN_PLANAR"),
        outline(B, in_patient(SQUARE), "OPEN_NONPLANAR"),
        outline(B, in_patient(SQUARE), ""),
    ]
    full, empty = read(structure_set(LV_endo=contours, LV_epi=[])).rois
    assert full == (1, "LV endo", (A, B), 8, 1, 4)
    assert empty == (2, "LV epi", (), 0, 0, 0)


def test_an_roi_without_contour_sequence_is_empty() -> None:
    """pydicom/pydicom#1206 and qurit/rt-utils#67: Contour Sequence is optional, and readers fail without it."""
    dataset = structure_set(LV=[ring(A)], empty=[ring(A)])
    del dataset.ROIContourSequence[1].ContourSequence
    assert [roi.contours for roi in read(dataset).rois] == [1, 0]
    # Nor is there an item for every ROI.
    del dataset.ROIContourSequence[1]
    assert [roi.contours for roi in read(dataset).rois] == [1, 0]


def test_a_contour_without_contour_image_sequence_is_on_no_image() -> None:
    """qurit/rt-utils#49 and dicompyler/dicompyler-core#81: Contour Image Sequence is optional, too."""
    found = read(structure_set(LV=[outline(None, in_patient(SQUARE))]))
    assert (found.rois[0].images, found.rois[0].unreferenced) == ((), 1)
    with pytest.raises(InputError, match="it is no longer in the file"):
        found.polygon(1, header_of(image(A)))


def test_a_contour_on_several_images_is_on_each() -> None:
    contour = ring(A)
    contour.ContourImageSequence.append(ring(B).ContourImageSequence[0])
    found = read(structure_set(LV=[contour]))
    assert found.rois[0].images == (A, B)
    one, other = (found.polygon(1, header_of(image(instance))) for instance in (A, B))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("undefined", [False, True])
def test_every_encoding_gives_the_same_contours(syntax: UID, undefined: bool) -> None:
    dataset = structure_set(LV=[ring(A), ring(A, square(30, 25, 5))])
    expected = read(dataset).polygon(1, header_of(image(A)))
    dataset.file_meta.TransferSyntaxUID = syntax

    def mark(dataset: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined

    dataset.walk(mark)
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    content = buffer.getvalue()
    assert is_structure_set(content[:1024])
    found = StructureSet.read(io.BytesIO(content))
    assert found.rois == read(structure_set(LV=[ring(A), ring(A, square(30, 25, 5))])).rois
    assert np.array_equal(found.polygon(1, header_of(image(A))), expected)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
def test_names_are_in_the_character_set_of_the_file(charset: str) -> None:
    dataset = structure_set(LV=[ring(A)])
    dataset.SpecificCharacterSet = charset
    dataset.StructureSetROISequence[0].ROIName = "Höhle"
    assert read(dataset).rois[0].name == "Höhle"


def test_the_name_of_a_contour_is_its_file_and_roi() -> None:
    name = ContourName("a#roi1/b#roi2-image3.dcm", 7)
    assert name.path(12) == "a#roi1/b#roi2-image3.dcm#roi7-image12"
    assert ContourName.parse(name.path(12)) == name
    assert ContourName.parse("IM-0001-0048-icontour-manual.txt") is None


# Files that are wrong.


def refusal(dataset: pydicom.Dataset) -> InputError:
    with pytest.raises(InputError) as raised:
        read(dataset)
    return raised.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dataset: dataset.ROIContourSequence[0].__setattr__("ReferencedROINumber", 5), "contours of ROI 5, and"),
        (lambda dataset: dataset.StructureSetROISequence[1].__setattr__("ROINumber", 1), "two of its ROIs have the"),
        (lambda dataset: dataset.StructureSetROISequence[0].__setattr__("ROINumber", None), "an ROI has no number"),
        (
            lambda dataset: dataset.StructureSetROISequence[0].__setattr__("ROINumber", -1),
            "an ROI has no number, or one",
        ),
        (lambda dataset: dataset.__delattr__("ROIContourSequence"), "has no ROI Contour Sequence"),
        (lambda dataset: dataset.__setattr__("SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.5"), "not an RT Structure"),
    ],
)
def test_a_structure_set_that_contradicts_itself_is_refused(
    change: Callable[[pydicom.Dataset], object], message: str
) -> None:
    dataset = structure_set(LV=[ring(A)], other=[ring(B)])
    change(dataset)
    error = refusal(dataset)
    assert error.reason == "unreadable_contour"
    assert message in error.detail


def raw_outline(data: bytes) -> pydicom.Dataset:
    """An outline with any Contour Data. Its VR is UN, as pydicom and others write it where 64 KB are not enough."""
    item, tag = outline(A, []), pydicom.tag.Tag("ContourData")
    data += b" " * (len(data) % 2)
    item[tag] = RawDataElement(tag, "UN", len(data), data, 0, False, True)
    return item


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (["1", "2", "nan"] * 3, "nonfinite_contour", "point 1 is not finite"),
        (["1", "2", "3", "4", "5", "-inf"], "nonfinite_contour", "point 2 is not finite"),
        (["1e308", "-1e308", "1e308"] * 3, "off_plane_contour", "mm off the plane of its image"),
        (["1", "2"], "unreadable_contour", "has 2 numbers, three for each point expected"),
        (["1", "2", "three"], "unreadable_contour", "is not numbers"),
        (["1", "2", "1_0"] * 3, "unreadable_contour", "is not numbers"),
        ([], "unreadable_contour", "has 1 number, three"),
        (in_patient(SQUARE[:2]), "degenerate_contour", "2 distinct points, at least 3"),
        (in_patient([(1e5, 1), (2, 2), (9, 3)]), "outside_image", "at most ±65536 pixels"),
    ],
)
def test_a_wrong_contour_is_one_error(data: Sequence[str], reason: str, message: str) -> None:
    found = read(structure_set(LV=[raw_outline("\\".join(data).encode()), ring(B)]))
    with pytest.raises(InputError) as raised:
        found.polygon(1, header_of(image(A)))
    assert (raised.value.reason, message in raised.value.detail) == (reason, True), raised.value.detail
    # The other contour is not affected.
    assert len(found.polygon(1, header_of(image(B)))) == 4


def test_a_sequence_of_another_kind_is_empty_or_refused() -> None:
    """Found by fuzzing: an empty element of VR SS is None."""
    content = saved(structure_set(LV=[ring(A)]))
    start = content.index(b"\x06\x30\x20\x00SQ")
    with pytest.raises(InputError, match="it has contours of ROI 1, and no such ROI"):
        StructureSet.read(io.BytesIO(content[:start] + b"\x06\x30\x20\x00SS\0\0" + content[start + 12 + 28 :]))
    name = content.index(b"\x06\x30\x26\x00LO")
    sequence = b"\x06\x30\x26\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(InputError) as raised:
        StructureSet.read(io.BytesIO(content[:name] + sequence + content[name + 10 :]))
    assert raised.value.reason == "unreadable_contour"


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """The most bytes that Python had allocated at once since the test started."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_contour_of_a_million_points_is_refused() -> None:
    found = read(structure_set(LV=[raw_outline(b"1\\" * 2_999_999 + b"1"), ring(B)]))
    with pytest.raises(InputError, match=rf"^1000000 points, at most {MAX_POINTS} expected") as raised:
        found.polygon(1, header_of(image(A)))
    assert raised.value.reason == "oversized_contour"
    assert len(found.polygon(1, header_of(image(B)))) == 4


def claiming(length: int) -> bytes:
    """A structure set whose contours claim a length in bytes."""
    content = saved(structure_set(LV=[ring(A)]))
    at = content.index(b"\x06\x30\x39\x00SQ\0\0")
    return content[: at + 8] + struct.pack("<I", length) + content[at + 12 :]


class Endless(io.RawIOBase):
    """A file of a gigabyte after its start, of which nothing is in memory."""

    def __init__(self, start: bytes) -> None:
        self._start, self._at = start, 0

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = at if whence == 0 else self._at + at
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "it is read whole"
        content = self._start[self._at : self._at + size]
        content += bytes(max(0, min(size, 1 << 30) - len(content)))
        self._at += len(content)
        return content


def test_a_structure_set_of_a_gigabyte_is_not_read(allocated: Callable[[], int]) -> None:
    expected = rf"^it takes over {sequences.MAX_BYTES} bytes to parse; divide it into several files"
    with pytest.raises(InputError, match=expected) as raised:
        StructureSet.read(Endless(claiming(1 << 30)))  # type: ignore[arg-type]
    assert raised.value.reason == "oversized_contour"
    assert allocated() < 2 * sequences.MAX_BYTES + 16 * MIB


@pytest.mark.parametrize("length", [1 << 30, (1 << 32) - 2])
def test_a_length_beyond_the_file_means_that_it_is_cut_short(length: int, allocated: Callable[[], int]) -> None:
    with pytest.raises(InputError, match=r"^it is cut short, or the length of an element is wrong") as raised:
        StructureSet.read(io.BytesIO(claiming(length)))
    assert raised.value.reason == "unreadable_contour"
    assert allocated() < 16 * MIB


def nested(undefined: bool) -> list[bytes]:
    """A structure set, cut at every byte after its first sequence."""
    dataset = structure_set(LV=[ring(A), ring(B)])
    dataset.walk(lambda _, element: setattr(element, "is_undefined_length", undefined) if element.VR == "SQ" else None)
    content = saved(dataset)
    return [content[:end] for end in range(content.index(b"\x06\x30\x20\x00SQ"), len(content))]


@pytest.mark.parametrize("undefined", [False, True])
def test_a_structure_set_that_is_cut_short_is_refused(undefined: bool) -> None:
    for content in nested(undefined):
        try:
            found = StructureSet.read(io.BytesIO(content))
        except InputError as error:
            assert error.reason == "unreadable_contour"
        else:
            # Before the first sequence nothing is missing that could be noticed.
            assert found.rois == ()


def test_a_deflated_bomb_is_not_inflated(allocated: Callable[[], int]) -> None:
    dataset = structure_set(LV=[ring(A)])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = saved(dataset)
    start = 144 + struct.unpack_from("<I", content, 140)[0]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(struct.pack("<HH2sHI", 0x3006, 0x39, b"SQ", 0, 160 * MIB))
    bomb += b"".join(deflater.compress(bytes(MIB)) for _ in range(160)) + deflater.flush()
    assert len(bomb) < MIB
    expected = rf"^it inflates to over {sequences.MAX_BYTES} bytes; divide it into several files"
    with pytest.raises(InputError, match=expected) as raised:
        StructureSet.read(io.BytesIO(content[:start] + bomb))
    assert raised.value.reason == "oversized_contour"
    assert allocated() < 3 * sequences.MAX_BYTES


def with_contours(content: bytes) -> io.BytesIO:
    """A structure set whose ROI Contour Sequence, of undefined length, has these bytes."""
    whole = saved(structure_set(LV=[]))
    at = whole.index(b"\x06\x30\x39\x00SQ\0\0")
    return io.BytesIO(whole[: at + 8] + b"\xff\xff\xff\xff" + content)


_ITEM = b"\xfe\xff\x00\xe0"
_CONTOURS = b"\x06\x30\x40\x00SQ\0\0"


@pytest.mark.parametrize(
    "content",
    [
        _ITEM + b"\0\0\0\0",
        _ITEM + b"\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0",
    ],
)
def test_a_million_items_are_not_read(
    content: bytes, allocated: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pydicom would make an object of each: more than a gigabyte from eight million bytes.

    The limit is a tenth of the real one, because measuring memory takes long.
    """
    assert sequences.MAX_ITEMS == 100_000
    monkeypatch.setattr(sequences, "MAX_ITEMS", 10_000)
    with pytest.raises(InputError, match=r"^it takes over 10000 items to parse; divide it into several") as raised:
        StructureSet.read(with_contours(content * 1_000_000))
    assert raised.value.reason == "oversized_contour"
    assert allocated() < 64 * MIB


def test_a_million_items_of_stated_length_are_not_read_either(allocated: Callable[[], int]) -> None:
    items = _ITEM + b"\0\0\0\0"
    inner = items * 1_000_000
    sequence = _CONTOURS + struct.pack("<I", len(inner)) + inner
    file = with_contours(_ITEM + struct.pack("<I", len(sequence)) + sequence + b"\xfe\xff\xdd\xe0\0\0\0\0")
    with pytest.raises(InputError, match=r"items to parse|ROI has no number") as raised:
        StructureSet.read(file)
    assert raised.value.reason in ("oversized_contour", "unreadable_contour")
    assert allocated() < 512 * MIB


@pytest.mark.parametrize("depth", [100, 20_000])
def test_sequences_within_sequences_end_somewhere(depth: int) -> None:
    content = (_ITEM + b"\xff\xff\xff\xff" + _CONTOURS + b"\xff\xff\xff\xff") * depth
    with pytest.raises(InputError) as raised:
        StructureSet.read(with_contours(content))
    assert raised.value.reason == "unreadable_contour"


@pytest.mark.parametrize(
    "name",
    [
        *("rtstruct.dcm", "rtplan.dcm", "rtplan_truncated.dcm", "rtdose.dcm", "rtdose_rle.dcm", "MR_small.dcm"),
        *("CT_small.dcm", "nested_priv_SQ.dcm", "DICOMDIR", "reportsi.dcm", "image_dfl.dcm", "no_meta.dcm"),
    ],
)
def test_sample_files_of_pydicom_are_read_or_refused(name: str) -> None:
    content = pathlib.Path(get_testdata_file(name)).read_bytes()
    try:
        found = StructureSet.read(io.BytesIO(content))
    except InputError as error:
        assert error.reason in ("unreadable_contour", "oversized_contour")
    else:
        assert found.rois


def test_the_sample_structure_set_of_pydicom_is_read() -> None:
    """It has no preamble, so it is not a file of PS3.10; written again, it is."""
    reference = pydicom.dcmread(get_testdata_file("rtstruct.dcm"), force=True)
    reference.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    names = [str(item.ROIName) for item in reference.StructureSetROISequence]
    counts = [len(item.ContourSequence) for item in reference.ROIContourSequence]
    rois = read(reference).rois
    assert [roi.name for roi in rois] == names
    assert [roi.contours for roi in rois] == counts


def test_thickness_is_that_of_the_helpers() -> None:
    """The tests of distances above depend on it."""
    assert header_of(image(A)).slice_thickness_mm == THICKNESS
