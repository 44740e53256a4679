import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from preprocess.model import ImageHeader, Study
from preprocess.quality.measurements import StudySummary
from preprocess.stages import pairing

from .helpers.synthetic import AXIAL, GRID, UNREAD, header_of, synthetic_pair

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SQUARE = np.array([(1, 1), (3, 1), (3, 3)], float)


# A short-axis plane with a cosine halfway between two numbers of three decimals.
TILTED = (0.7005, math.sqrt(1 - 0.7005**2), 0.0, 0.0, 0.0, -1.0)


def located(location_mm: float, trigger_time_ms: float = math.nan, orientation: tuple = AXIAL) -> ImageHeader:
    """An image at a distance along the normal of its orientation."""
    position = tuple(location_mm * np.cross(orientation[:3], orientation[3:]))
    return header_of(position_mm=position, trigger_time_ms=trigger_time_ms, orientation=orientation)


def slices_and_phases(headers: dict[int, ImageHeader]) -> dict[int, tuple[int, int]]:
    return {number: (place.slice_index, place.phase_index) for number, place in pairing.locate(headers).items()}


def test_slices_lie_along_the_normal_and_phases_along_time() -> None:
    headers = {
        1: located(-10.0, 50),
        2: located(-10.001, 0),
        3: located(-30, 0),
        4: located(-30, 50),
        5: located(-20, 50),
        6: located(-20, 0),
    }
    expected = {1: (0, 1), 2: (0, 0), 5: (1, 1), 6: (1, 0), 3: (2, 0), 4: (2, 1)}
    assert slices_and_phases(headers) == expected
    locations = {number: place.location_mm for number, place in pairing.locate(headers).items()}
    assert locations == {1: -10.0, 2: -10.001, 3: -30, 4: -30, 5: -20, 6: -20}


def test_without_trigger_times_phases_follow_the_number() -> None:
    assert slices_and_phases({8: located(5, 10), 7: located(5), 9: located(5, 0)}) == {7: (0, 0), 8: (0, 1), 9: (0, 2)}


def test_another_view_has_slices_of_its_own() -> None:
    places = pairing.locate({1: located(5), 2: located(5, orientation=CORONAL), 3: located(6)})
    assert places == {1: (0, 0, 0, 5), 3: (0, 1, 0, 6), 2: (1, 2, 0, 5)}


@pytest.mark.parametrize(("degrees", "stacks"), [(0.05, 1), (0.5, 2), (180, 2)])
def test_images_are_a_stack_when_their_directions_differ_by_a_tenth_of_a_degree_at_most(
    degrees: float, stacks: int
) -> None:
    turn = np.radians(degrees)
    turned = (math.cos(turn), math.sin(turn), 0.0, -math.sin(turn), math.cos(turn), 0.0)
    places = pairing.locate({1: located(5), 2: located(5, orientation=turned)})
    assert len({place.stack_index for place in places.values()}) == stacks


@hypothesis.given(st.data())
def test_noise_in_the_cosines_changes_neither_slices_nor_phases(data: st.DataObject) -> None:
    """If cosines were rounded, half of these slices would be in stacks of their own."""
    numbers = data.draw(st.permutations(range(1, 9)))
    headers = {}
    for number in numbers:
        noise = data.draw(st.lists(st.floats(-5e-4, 5e-4), min_size=6, max_size=6))
        orientation = tuple(cosine + error for cosine, error in zip(TILTED, noise, strict=True))
        position = tuple(10.0 * ((number - 1) // 2) * np.cross(TILTED[:3], TILTED[3:]) + (12.0, -34.0, 56.0))
        headers[number] = header_of(position_mm=position, trigger_time_ms=number, orientation=orientation)
    places = pairing.locate(headers)
    assert {number: place[:3] for number, place in places.items()} == {
        number: (0, (number - 1) // 2, (number - 1) % 2) for number in range(1, 9)
    }
    study = Study("A", "B", {}, {"i": {}, "o": {}}, frozenset(["A"]))
    assert StudySummary.of(study, headers, places).slice_spacing_mm == pytest.approx(10, abs=0.02)


def test_unknown_slices_and_phases_are_minus_one() -> None:
    headers = {1: header_of(position_mm=None), 2: header_of(orientation=None), 3: located(2)}
    assert slices_and_phases(headers) == {1: (-1, -1), 2: (-1, -1), 3: (0, 0)}
    assert math.isnan(pairing.locate(headers)[1].location_mm)
    assert math.isnan(headers[1].location_mm)
    assert math.isnan(headers[2].location_mm)
    assert pairing.locate({}) == {}


def test_images_and_contours_without_a_partner_are_reported() -> None:
    study = Study(
        "S",
        "C",
        {number: f"dicoms/S/{number}.dcm" for number in (1, 2, 3, 4, 5)},
        {"i": {number: f"contourfiles/C/{number}" for number in (1, 2, 3, 4, 9)}, "o": {}},
        frozenset(["S"]),
    )
    headers = {
        1: header_of(patient_id="S", instance_number=1),
        2: header_of(),
        3: header_of(patient_id="OTHER", instance_number=3),
        5: header_of(patient_id="S", instance_number=6),
    }
    polygons = dict.fromkeys((1, 2, 3, 4, 9), SQUARE)
    confirmed, findings = pairing.match_headers(study, headers)
    pairs = pairing.pair(
        study,
        "i",
        confirmed,
        pairing.locate(confirmed),
        dict.fromkeys(confirmed, UNREAD),
        dict.fromkeys(confirmed, GRID),
        polygons,
    )
    findings += pairing.unmatched_contours(study, "i", headers, polygons) + pairing.unlabeled(study, "i")
    assert [(pair.instance_number, pair.image_path, pair.contour_path) for pair in pairs] == [
        (1, "dicoms/S/1.dcm", "contourfiles/C/1"),
        (2, "dicoms/S/2.dcm", "contourfiles/C/2"),
    ]
    found = {(finding.reason, finding.instance_number): finding.detail for finding in findings}
    assert found == {
        ("header_mismatch", 3): "Patient ID (0010,0020) is not the folder's name",
        ("header_mismatch", 5): "Instance Number (0020,0013) is not the file's number",
        ("no_image", 4): "its image dicoms/S/4.dcm cannot be used; another row says why",
        ("no_image", 9): "study S has no image 9",
        ("unlabeled_images", None): "1 of 5 images have no i-contour",
    }
    assert not any("OTHER" in detail for detail in found.values())


def test_pairs_that_no_header_confirms_are_counted() -> None:
    study = Study("S", "C", {}, {"i": {}, "o": {}}, frozenset(["S"]))
    pairs = [synthetic_pair(1, patient_id="S"), synthetic_pair(2), synthetic_pair(3, instance_number=None)]
    (finding,) = pairing.unconfirmed(study, pairs)
    assert (finding.reason, finding.study_id) == ("unconfirmed", "S")
    assert finding.detail == (
        "of 3 images with a contour: no Patient ID (0010,0020) in 2 and no Instance Number (0020,0013) in 1; "
        "only the names of folder and file confirm these"
    )
    assert pairing.unconfirmed(study, pairs[:1]) == pairing.unconfirmed(study, []) == []
