import math

import numpy as np

from preprocess import pairing
from preprocess.study import ImageHeader, Place, Study

from .conftest import header_of, synthetic_pair

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SQUARE = np.array([(1, 1), (3, 1), (3, 3)], float)


def located(location_mm: float, trigger_time_ms: float = math.nan, orientation: tuple = AXIAL) -> ImageHeader:
    return header_of(location_mm=location_mm, trigger_time_ms=trigger_time_ms, orientation=orientation)


def test_slices_lie_along_the_normal_and_phases_along_time() -> None:
    headers = {
        1: located(-10.0, 50),
        2: located(-10.001, 0),
        3: located(-30, 0),
        4: located(-30, 50),
        5: located(-20, 50),
        6: located(-20, 0),
    }
    places = pairing.locate(headers)
    assert places == {1: (0, 1), 2: (0, 0), 5: (1, 1), 6: (1, 0), 3: (2, 0), 4: (2, 1)}


def test_without_trigger_times_the_number_counts() -> None:
    places = pairing.locate({8: located(5, 10), 7: located(5), 9: located(5, 0)})
    assert places == {7: (0, 0), 8: (0, 1), 9: (0, 2)}


def test_another_view_has_slices_of_its_own() -> None:
    places = pairing.locate({1: located(5), 2: located(5, orientation=CORONAL), 3: located(6)})
    assert places == {1: (0, 0), 3: (1, 0), 2: (2, 0)}


def test_what_the_headers_do_not_say_is_minus_one() -> None:
    headers = {1: located(math.nan), 2: header_of(location_mm=1.0, orientation=None), 3: located(2)}
    assert pairing.locate(headers) == {1: Place(-1, -1), 2: Place(-1, -1), 3: Place(0, 0)}
    assert pairing.locate({}) == {}


def test_pairs_and_what_is_left_over() -> None:
    study = Study(
        "S",
        "C",
        {number: f"dicoms/S/{number}.dcm" for number in (1, 2, 3, 4, 5)},
        {"i": {number: f"contourfiles/C/{number}" for number in (1, 2, 3, 4, 9)}, "o": {}},
    )
    headers = {
        1: header_of(patient_id="S", instance_number=1),
        2: header_of(),
        3: header_of(patient_id="OTHER", instance_number=3),
        5: header_of(patient_id="S", instance_number=6),
    }
    polygons = dict.fromkeys((1, 2, 3, 4, 9), SQUARE)
    confirmed, findings = pairing.confirm(study, headers)
    pairs = pairing.pair(study, "i", confirmed, pairing.locate(confirmed), polygons)
    findings += pairing.left_over(study, "i", headers, polygons) + pairing.unlabeled(study, "i")
    assert [(pair.number, pair.image_path, pair.contour_path) for pair in pairs] == [
        (1, "dicoms/S/1.dcm", "contourfiles/C/1"),
        (2, "dicoms/S/2.dcm", "contourfiles/C/2"),
    ]
    found = {(finding.reason, finding.instance_number): finding.detail for finding in findings}
    assert found == {
        ("header_mismatch", 3): "Patient ID (0010,0020) is not the folder's name",
        ("header_mismatch", 5): "Instance Number (0020,0013) is not the file's number",
        ("no_image", 4): "its image dicoms/S/4.dcm cannot be used",
        ("no_image", 9): "study S has no image 9.dcm",
        ("unlabeled_images", None): "1 of 5 images have no i-contour",
    }
    assert not any("OTHER" in detail for detail in found.values())


def test_what_no_header_confirms_is_counted() -> None:
    study = Study("S", "C", {}, {"i": {}, "o": {}})
    pairs = [synthetic_pair(1, patient_id="S"), synthetic_pair(2), synthetic_pair(3, instance_number=None)]
    (finding,) = pairing.unconfirmed(study, pairs)
    assert (finding.reason, finding.study_id, finding.count) == ("unconfirmed", "S", 2)
    assert finding.detail == (
        "of the paired images 2 of 3 have no Patient ID (0010,0020) and 1 of 3 have no Instance Number (0020,0013): "
        "only the names of folder and file confirm these pairs"
    )
    assert pairing.unconfirmed(study, pairs[:1]) == pairing.unconfirmed(study, []) == []
