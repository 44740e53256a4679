"""The whole Sunnybrook Cardiac Data, in the layouts of its distributions."""

import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
import pytest
import tensorflow as tf

from preprocess.config import Config
from preprocess.engines.local import Local
from preprocess.findings import FatalInputError, Finding
from preprocess.inputs import sources
from preprocess.layouts import sunnybrook
from preprocess.layouts.sunnybrook_ids import PATIENTS, canonical, read_links
from preprocess.model import Study
from preprocess.run import run

from .helpers import ROOT
from .helpers.listed import Inline, Listed
from .helpers.shared import shared_phantom
from .helpers.sunnybrook import ORIGINALS, contour_path, image_path, lay_out
from .helpers.tables import audit_of, found_by, read_table
from .helpers.trees import contents, edited

# One patient a line, as the distributed table has them.
TABLE = """\
SCD0000101,SC-HF-I-1
SCD0000201,SC-HF-I-2
SCD0000301,SC-HF-I-4
SCD0000401,SC-HF-I-5
SCD0000501,SC-HF-I-6
SCD0000601,SC-HF-I-7
SCD0000701,SC-HF-I-8
SCD0000801,SC-HF-I-9
SCD0000901,SC-HF-I-10
SCD0001001,SC-HF-I-11
SCD0001101,SC-HF-I-12
SCD0001201,SC-HF-I-40
SCD0001301,SC-HF-NI-3
SCD0001401,SC-HF-NI-4
SCD0001501,SC-HF-NI-7
SCD0001601,SC-HF-NI-11
SCD0001701,SC-HF-NI-12
SCD0001801,SC-HF-NI-13
SCD0001901,SC-HF-NI-14
SCD0002001,SC-HF-NI-15
SCD0002101,SC-HF-NI-31
SCD0002201,SC-HF-NI-33
SCD0002301,SC-HF-NI-34
SCD0002401,SC-HF-NI-36
SCD0002501,SC-HYP-1
SCD0002601,SC-HYP-3
SCD0002701,SC-HYP-6
SCD0002801,SC-HYP-7
SCD0002901,SC-HYP-8
SCD0003001,SC-HYP-9
SCD0003101,SC-HYP-10
SCD0003201,SC-HYP-11
SCD0003301,SC-HYP-12
SCD0003401,SC-HYP-37
SCD0003501,SC-HYP-38
SCD0003601,SC-HYP-40
SCD0003701,SC-N-2
SCD0003801,SC-N-3
SCD0003901,SC-N-5
SCD0004001,SC-N-6
SCD0004101,SC-N-7
SCD0004201,SC-N-9
SCD0004301,SC-N-10
SCD0004401,SC-N-11
SCD0004501,SC-N-40
"""

HEADER = "PatientID,OriginalID,Gender,Age,Pathology\n"
IMAGES = "SCD_IMAGES_01/SCD0000101"
CONTOURS = "SCD_ManualContours/SC-HF-I-01/contours-manual/IRCCI-expert"


def csv_of(rows: str) -> bytes:
    return (HEADER + "".join(f"{row},Male,50,3\n" for row in rows.splitlines())).encode()


def series(folder: str, prefix: int, wanted: Sequence[int]) -> dict[str, bytes]:
    """The names of a series' images; the files are empty."""
    return {f"{folder}/IM-{prefix:04d}-{number:04d}.dcm": b"" for number in wanted}


def drawn(wanted: Sequence[int], original: str = "SC-HF-I-1", kind: str = "i") -> dict[str, bytes]:
    return {contour_path(original, number, kind): b"" for number in wanted}


def discover(files: Mapping[str, bytes] | Sequence[str]) -> tuple[list[Study], list[Finding]]:
    """What is discovered of files in memory."""
    source = Listed(files if isinstance(files, Mapping) else dict.fromkeys(files, b""))
    inline = Inline(source)
    config = Config(pathlib.Path("data"), pathlib.Path("unused"), layout="sunnybrook")
    return sunnybrook.discover(source, config, inline)


def rows_of(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return sorted((finding.reason.value, finding.level or "", finding.study_id) for finding in findings)


def used_series(study: Study) -> set[str]:
    """The folder and first number of a study's images."""
    return {path.rpartition("-")[0] for path in study.images.values()}


# The names of the patients.


def test_the_45_patients_have_the_names_of_the_published_table() -> None:
    assert dict(line.split(",") for line in TABLE.split()) == PATIENTS
    links, findings = read_links(Listed({"a/SCD_PatientData.csv": csv_of(TABLE)}), ["a/SCD_PatientData.csv"])
    assert findings == []
    assert links == PATIENTS


@pytest.mark.parametrize("name", ["SC-HF-I-1", "SC-HF-I-01", "SC-HF-I-001", "sc-hf-i-01"])
def test_spellings_of_one_name_are_the_same(name: str) -> None:
    assert canonical(name) == "SC-HF-I-1"
    assert canonical(name) != canonical("SC-HF-I-10")


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ("SCD0000101,SC-HF-I-2", ["line 2: contradicts the published names"]),
        ("SCD0000101,SC-HF-I-99", ["line 2: contradicts the published names"]),
        ("SCD0009901,SC-HF-I-1", ["line 2: contradicts the published names"]),
        ("SCD0009901,", ["line 2: an id is missing"]),
        ("SCD0009901,../x", ["line 2: an id is missing, or cannot be the name of a folder"]),
        ("SCD0009901,SC-N-98\nSCD0009901,SC-N-99", ["line 2: another row links", "line 3: another row links"]),
        ("SCD0009801,SC-N-99\nSCD0009901,SC-N-099", ["line 2: another row links", "line 3: another row links"]),
        ("SC-N-98,SC-N-99\nSC-N-99,SC-N-97", ["line 2: another row links", "line 3: another row links"]),
        ("SC-HF-I-1,SC-N-99", ["line 2: contradicts the published names"]),
        ("SCD0000101,SC-HF-I-01", []),
        (",", []),
    ],
)
def test_rows_that_contradict_are_reported_and_not_used(rows: str, problems: list[str]) -> None:
    links, findings = read_links(Listed({"scd_patientdata.csv": csv_of(rows)}), ["scd_patientdata.csv"])
    assert links == PATIENTS
    assert {finding.reason.value for finding in findings} <= {"bad_link"}
    assert len(findings) == len(problems)
    assert all(finding.detail.startswith(start) for finding, start in zip(findings, problems, strict=True))


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"Patient,Original\nA,B\n", "the first line does not name the columns PatientID, OriginalID"),
        (b"PatientID,OriginalID\n\xff,B\n", "cannot be read as UTF-8 CSV"),
        (b"PatientID,OriginalID\n" + b"," * (1 << 20), "has over 1048576 bytes"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_row_and_the_published_names_count(content: bytes, detail: str) -> None:
    files = {**series(f"{IMAGES}/CINESAX_300", 3, [1]), **drawn([1]), "scd_patientdata.csv": content}
    studies, findings = discover(files)
    assert [study.study_id for study in studies] == ["SCD0000101"]
    assert rows_of(findings) == [("bad_link", "error", "")]
    assert findings[0].detail.startswith(detail)


def test_patients_of_a_later_release_are_read_by_its_table() -> None:
    files = {**series("SCD0004601/CINESAX_1", 1, [7]), **drawn([7], "SC-N-50")}
    assert rows_of(discover(files | series(f"{IMAGES}/CINESAX_300", 3, [1]) | drawn([1]))[1]) == [
        ("unlinked_study", "warning", "SC-N-50"),
        ("unlinked_study", "warning", "SCD0004601"),
    ]
    studies, findings = discover({**files, "scd_patientdata.csv": csv_of("SCD0004601,SC-N-50")})
    assert findings == []
    assert [(study.study_id, study.contour_id, list(study.images)) for study in studies] == [
        ("SCD0004601", "SC-N-50", [7])
    ]


# The files of a study.


@pytest.mark.parametrize("distribution", [1, 2, 3])
def test_studies_are_found_in_each_distribution(distribution: int) -> None:
    files = {image_path(distribution, *link, number): b"" for link in ORIGINALS.items() for number in (2, 5, 9)}
    for original in ORIGINALS.values():
        files |= drawn([5, 9], original) | drawn([9], original, "o")
    studies, findings = discover(files)
    assert findings == []
    assert [(study.study_id, study.contour_id) for study in studies] == [
        ("SCD0000101", "SC-HF-I-01"),
        ("SCD0000201", "SC-HF-I-02"),
        ("SCD0000301", "SC-HF-I-04"),
        ("SCD0000401", "SC-HF-I-05"),
    ]
    for study in studies:
        assert (list(study.images), list(study.contours["i"]), list(study.contours["o"])) == ([2, 5, 9], [5, 9], [9])
        assert study.patient_ids is not None
        assert {study.study_id, study.contour_id, ORIGINALS[study.study_id]} <= study.patient_ids


@pytest.mark.parametrize("image_folder", ["SC-HF-I-1", "SC-HF-I-01", "SCD0000101"])
@pytest.mark.parametrize("contour_folder", ["SC-HF-I-1", "SC-HF-I-01"])
def test_both_spellings_name_one_study(image_folder: str, contour_folder: str) -> None:
    folder = f"x/{contour_folder}/contours-manual/IRCCI-expert"
    files = [f"challenge/{image_folder}/IM-0004-0048.dcm", f"{folder}/IM-0001-0048-icontour-manual.txt"]
    (study,), findings = discover(files)
    assert findings == []
    assert (study.study_id, study.contour_id) == ("SCD0000101", contour_folder)


def test_contours_of_other_kinds_are_counted_once_a_study_and_not_used() -> None:
    others = [
        f"{CONTOURS}/IM-0001-0048-p1contour-manual.txt",
        f"{CONTOURS}/IM-0001-0048-p2contour-manual.txt",
        f"{CONTOURS}/IM-0001-0048-p3contour-manual.txt",
        "SCD_ManualContours/SC-HF-I-01/contours-auto/ALG/IM-0001-0048-icontour-auto.txt",
        "Other/SC-HF-I-1/contours-manual/somebody/IM-0001-0048-icontour-manual.txt",
    ]
    (study,), (finding,) = discover([*series(f"{IMAGES}/CINESAX_300", 3, [48]), *drawn([48]), *others])
    assert study.contours["i"] == {48: contour_path("SC-HF-I-1", 48, "i")}
    assert (finding.reason, finding.level, finding.study_id) == ("other_contours", "info", "SCD0000101")
    assert finding.detail == "contours that are not used: 1 of algorithms, 1 of other experts, 3 of papillary muscles"


@pytest.mark.parametrize(
    "name",
    [
        f"{CONTOURS}/IM-0001-0050-icontour-manual.txt.txt",
        f"{CONTOURS}/IM-0001-0050-icontour-manual (1).txt",
        f"{CONTOURS}/IM-0001-icontour-manual.txt",
        f"{CONTOURS}/IM-0001-00_50-icontour-manual.txt",
        f"{CONTOURS}/IM-0001-٤٨-icontour-manual.txt",
        f"{CONTOURS}/old/IM-0001-0050.dcm",
        "SCD_ManualContours/SC-HF-I-01/contours-manual/IM-0001-0050-icontour-manual.txt",
        "SCD_ManualContours/SC-HF-I-01/manual/IRCCI-expert/IM-0001-0050-icontour-manual.txt",
        "contours-manual/IRCCI-expert/IM-0001-0050-icontour-manual.txt",
        f"{IMAGES}/CINESAX_300/IM-0003-0050.dcm.bak",
        f"{IMAGES}/CINESAX_300/IM-0003-0050-0001.dcm",
        f"{IMAGES}/CINESAX_300/IM-0003.dcm",
        f"{IMAGES}/CINESAX_300/50.dcm",
        "SCD_IMAGES_01/SCD00001/CINESAX_300/IM-0003-0050.dcm",
        "SCD_IMAGES_01/XSCD0000101/CINESAX_300/IM-0003-0050.dcm",
        "SCD_IMAGES_01/SC-HF-I-1 (copy)/IM-0003-0050.dcm",
        "IM-0003-0050.dcm",
    ],
)
def test_a_name_that_is_almost_right_is_reported_and_not_used(name: str) -> None:
    (study,), (finding,) = discover([*series(f"{IMAGES}/CINESAX_300", 3, [48]), *drawn([48]), name])
    assert (list(study.images), list(study.contours["i"])) == ([48], [48])
    assert finding.reason == "unused_file"
    assert repr(name.rpartition("/")[2]) in finding.detail


def test_files_of_a_study_that_are_not_images_are_one_row() -> None:
    others = [f"{IMAGES}/{folder}/MR{number}.dcm" for folder in "abcdef" for number in range(50)]
    _, (finding,) = discover([*series(f"{IMAGES}/CINESAX_300", 3, [48]), *drawn([48]), *others])
    assert finding.path == IMAGES
    assert finding.detail.startswith("300 files look like images or contours")


def test_images_without_contours_and_contours_without_images_are_a_row_each() -> None:
    names = {
        **series(f"{IMAGES}/CINESAX_300", 3, range(1, 241)),
        **series("SCD_IMAGES_01/SCD0000201/CINESAX_300", 3, range(1, 241)),
        **drawn([48]),
        **drawn(range(1, 30), "SC-HF-I-4"),
    }
    studies, findings = discover(names)
    assert [study.study_id for study in studies] == ["SCD0000101"]
    assert [(finding.path, finding.level, finding.study_id) for finding in findings] == [
        ("SCD_IMAGES_01/SCD0000201", "warning", "SCD0000201"),
        ("SCD_ManualContours/SC-HF-I-04", "error", "SCD0000301"),
    ]
    assert {finding.reason.value for finding in findings} == {"missing_study"}


def test_two_files_of_one_number_are_not_used() -> None:
    names = [
        *series(f"{IMAGES}/CINESAX_300", 3, [1, 2]),
        f"{IMAGES}/CINESAX_300/IM-0003-2.dcm",
        *drawn([1, 2]),
        f"{CONTOURS}/IM-0002-0001-icontour-manual.txt",
    ]
    (study,), findings = discover(names)
    assert (list(study.images), list(study.contours["i"])) == ([1], [2])
    assert (
        rows_of(findings)
        == [("duplicate_contour", "error", "SCD0000101")] * 2 + [("duplicate_image", "error", "SCD0000101")] * 2
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (drawn([48]), "contains no image like SCD0000101/CINESAX_300/IM-0003-0048.dcm; if they are elsewhere, put all"),
        (
            series(f"{IMAGES}/CINESAX_300", 3, [48]),
            "contains no contour like SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt; if",
        ),
    ],
)
def test_data_without_any_image_or_contour_is_refused(files: Mapping[str, bytes], message: str) -> None:
    assert sunnybrook.recognize(Listed(files))
    with pytest.raises(FatalInputError, match=re.escape(message)):
        discover(files)


def test_names_of_hostile_length_take_no_time_to_compare() -> None:
    """An entry of an archive may have 65,535 characters; with a regular expression, this took minutes."""
    for name in (f"SC-HF-I-{'0' * 60_000}x", f"SC-HF-I-{'0' * 60_000}", f"SC{'-A' * 30_000}", "2" * 60_000):
        names = [f"x/{name}/{folder}/IM-0001-0001.dcm" for folder in ("DICOM", name)]
        (study,), findings = discover([*series(f"{IMAGES}/CINESAX_300", 3, [48]), *drawn([48]), *names])
        assert study.study_id == "SCD0000101"
        assert {finding.reason.value for finding in findings} <= {"unlinked_study", "unused_file"}


def test_the_layout_is_recognized_by_names_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    files = {**series(f"{IMAGES}/CINESAX_300", 3, [48]), **drawn([48])}
    assert sunnybrook.recognize(Listed(files)) == "contours-manual/IRCCI-expert/ of 1 study, IM-….dcm of 1 study"
    assert sunnybrook.recognize(sources.open_source(tree)) == ""
    renamed = {name.replace("PHANTOM001", "SCD0000101").replace("PH-1", "SC-HF-I-1"): b"" for name in contents(tree)}
    assert sunnybrook.recognize(Listed(renamed)) == ""


# The series.


def test_the_series_is_the_one_that_says_cinesax() -> None:
    names = {
        **series(f"{IMAGES}/CINELAX_301", 4, range(1, 241)),
        **series(f"{IMAGES}/CINESAX_300", 3, range(1, 241)),
        **series(f"{IMAGES}/PERF_SAX_302", 5, range(1, 241)),
        **series(f"{IMAGES}/300", 6, range(1, 241)),
        **drawn([48, 240]),
    }
    (study,), findings = discover(names)
    assert findings == []
    assert used_series(study) == {f"{IMAGES}/CINESAX_300/IM-0003"}


def test_where_none_says_so_the_series_is_the_one_that_covers_every_contour() -> None:
    """As in the third distribution: SC-HF-I-10 has contours up to image 220."""
    folder = "challenge_online/SC-HF-I-10"
    names = {
        **series(folder, 22, range(1, 21)),
        **series(folder, 24, [*range(1, 100), *range(120, 221)]),
        **series(folder, 34, range(1, 220)),
        **drawn([20, 120, 220], "SC-HF-I-10"),
    }
    (study,), findings = discover(names)
    assert findings == []
    assert used_series(study) == {f"{folder}/IM-0024"}
    assert len(study.images) == 200


@pytest.mark.parametrize("view", ["CINELAX_3", "4CH_2", "SCOUT", "Localizer", "PERF SAX"])
def test_a_series_that_says_it_is_another_view_is_never_used(view: str) -> None:
    studies, (finding,) = discover([*series(f"{IMAGES}/{view}", 3, [1, 2]), *drawn([1])])
    assert studies == []
    assert (finding.reason, finding.detail) == ("missing_study", "none of its 1 series is a short-axis series")


def test_the_only_cinesax_series_is_used_where_it_lacks_images() -> None:
    names = [*series(f"{IMAGES}/CINESAX_300", 3, [1, 2]), *series(f"{IMAGES}/7", 7, [1]), *drawn([1, 2, 3])]
    (study,), findings = discover(names)
    assert findings == []
    assert (list(study.images), list(study.contours["i"])) == ([1, 2], [1, 2, 3])


@pytest.mark.parametrize("folders", [("", ""), ("/CINESAX_1", "/CINESAX_2")])
def test_where_no_series_has_every_image_the_missing_numbers_are_named(folders: tuple[str, str]) -> None:
    names = [
        *series(f"{IMAGES}{folders[0]}", 3, [1, 2, 3]),
        *series(f"{IMAGES}{folders[1]}", 4, [3]),
        *drawn([1, 2, 3, 4]),
    ]
    studies, (finding,) = discover(names)
    assert studies == []
    assert (finding.reason, finding.level, finding.study_id) == ("ambiguous_study", "error", "SCD0000101")
    assert finding.detail == (
        f"no series has an image for each contour: {IMAGES}{folders[0]}/IM-0003-… lacks 4, "
        f"{IMAGES}{folders[1]}/IM-0004-… lacks 1, 2, 4"
    )


def test_several_series_whose_images_cannot_be_read_are_not_guessed() -> None:
    names = [*series(f"{IMAGES}/CINESAX_1", 1, [1, 2, 3]), *series(f"{IMAGES}/CINESAX_2", 2, [1, 2, 3])]
    studies, (finding,) = discover([*names, *drawn([1, 2, 3])])
    assert studies == []
    assert finding.reason == "ambiguous_study"
    assert "2 series have an image for each contour, and contrast does not decide" in finding.detail


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        (
            series("TrainingDataDICOM/SC-HF-I-01/DICOM", 1, [1, 2]),
            "its images are in 2 folders: SCD_IMAGES_01/SCD0000101, TrainingDataDICOM/SC-HF-I-01",
        ),
        (
            {f"Again/SC-HF-I-1/contours-manual/IRCCI-expert/IM-0001-{1:04d}-ocontour-manual.txt": b""},
            "its contours are in 2 folders: Again/SC-HF-I-1, SCD_ManualContours/SC-HF-I-01",
        ),
    ],
)
def test_a_study_in_two_places_is_an_error_that_names_both(more: dict[str, bytes], detail: str) -> None:
    studies, (finding,) = discover({**series(f"{IMAGES}/CINESAX_300", 3, [1, 2]), **drawn([1, 2]), **more})
    assert studies == []
    assert (finding.reason, finding.detail) == ("ambiguous_study", detail)


NAMES = st.builds(
    "{}/{}{}".format,
    st.sampled_from(["a/SCD0000101", "b/SC-HF-I-1", "SC-HF-I-02", "SCD0000201", "SCD0009901", "x"]),
    st.sampled_from(["", "CINESAX_1/", "CINELAX_2/", "DICOM/", "contours-manual/IRCCI-expert/", "contours-auto/x/"]),
    st.sampled_from(
        [
            *(f"IM-000{prefix}-000{number}.dcm" for prefix in (1, 2) for number in (1, 2)),
            *(f"IM-0001-000{number}-{kind}contour-manual.txt" for number in (1, 2) for kind in ("i", "o", "p1")),
            "IM-0001-0001-icontour-auto.txt",
            "IM-0001-1.dcm",
            "scd_patientdata.csv",
            "notes.txt",
        ]
    ),
)
START = ["a/SCD0000101/CINESAX_1/IM-0001-0001.dcm", *drawn([1])]


@hypothesis.given(st.lists(NAMES, unique=True, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_the_listing_changes_nothing(names: list[str], random: object) -> None:
    names = sorted({*names, *START})
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    studies, findings = discover(names)
    again, findings_again = discover(shuffled)
    assert studies == again
    assert sorted(findings, key=repr) == sorted(findings_again, key=repr)
    for study in studies:
        assert len(used_series(study)) <= 1
        contours = [path for by_number in study.contours.values() for path in by_number.values()]
        assert len({path.partition("contours-manual")[0] for path in contours}) <= 1


# Real images: the phantom, and the four studies.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return shared_phantom(tmp_path_factory, "sunnybrook")


@pytest.fixture
def one(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A study of the phantom, with its contours."""
    for part in (IMAGES, "SCD_ManualContours/SC-HF-I-01"):
        shutil.copytree(whole / part, tmp_path / "one" / part)
    return tmp_path / "one"


@pytest.fixture(scope="module")
def written(whole: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("sunnybrook") / "records"
    run(Config(whole, output, workers=2))
    return output


def records_of(records: pathlib.Path) -> list[dict[str, bytes]]:
    """The features of each record."""
    examples = []
    for path in sorted(records.glob("*.tfrecord-?????-of-?????")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(data).features.feature
            examples.append({name: feature.SerializeToString() for name, feature in features.items()})
    return examples


def discovered(data_dir: sources.DataDir) -> tuple[list[Study], list[Finding]]:
    config = Config(data_dir, pathlib.Path("unused"), layout="sunnybrook", workers=2)
    with Local(config) as engine:
        return sunnybrook.discover(sources.open_source(data_dir), config, engine)


def test_the_phantom_in_this_layout_gives_the_records_of_the_challenge_layout(
    written: pathlib.Path, phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(Config(phantom_dir, tmp_path / "challenge", workers=2))
    ours, theirs = records_of(written), records_of(tmp_path / "challenge")
    assert len(ours) == len(theirs) == 36
    for one, other in zip(ours, theirs, strict=True):
        assert {name for name in one if one[name] != other[name]} == {"meta/study_id", "meta/contour_id"}
    assert {row["reason"] for row in audit_of(written)} == {"unlabeled_images", "other_contours", "implausible_contour"}
    assert {row["path"].split("/")[2] for row in audit_of(written) if row["reason"] == "unlabeled_images"} == {
        "CINESAX_300"
    }


def archives_of(tree: pathlib.Path, parts: Mapping[str, Sequence[pathlib.Path]]) -> tuple[pathlib.Path, ...]:
    """Archives, by name, of some folders of a tree; they are not compressed, which takes long."""
    for name, folders in parts.items():
        with zipfile.ZipFile(tree.parent / name, "w") as archive:
            for folder in folders:
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    archive.write(path, path.relative_to(tree))
    return tuple(tree.parent / name for name in parts)


PACKINGS: dict[str, Callable[[pathlib.Path], sources.DataDir]] = {
    "folder": lambda tree: tree,
    "one archive": lambda tree: archives_of(tree, {"data.zip": [tree]})[0],
    "several archives": lambda tree: archives_of(tree, {f"{part.name}.zip": [part] for part in tree.iterdir()}),
}


@pytest.mark.parametrize("distribution", [1, *(pytest.param(other, marks=pytest.mark.slow) for other in (2, 3))])
def test_the_real_studies_give_the_same_records_in_each_distribution(
    real_data: pathlib.Path, real_records: pathlib.Path, tmp_path: pathlib.Path, distribution: int
) -> None:
    """Every feature but the name of the contours, which the folders spell with two digits here."""
    tree = lay_out(real_data, tmp_path / "tree", distribution)
    expected = records_of(real_records)
    assert len(expected) == 74
    for name, packed in PACKINGS.items():
        run(Config(packed(tree), tmp_path / f"records of {name}", workers=2))
        found = records_of(tmp_path / f"records of {name}")
        for ours, theirs in zip(found, expected, strict=True):
            assert {key for key in {*ours, *theirs} if ours[key] != theirs[key]} == {"meta/contour_id"}
        reasons = {row["reason"] for row in audit_of(tmp_path / f"records of {name}")}
        assert reasons == {"unlabeled_images", "volume_order"}


@pytest.mark.parametrize(("slices", "phases", "decided"), [(2, 0, True), (-3, 0, True), (0, 1, False)])
def test_contrast_finds_the_series_or_leaves_it_open(
    real_data: pathlib.Path, tmp_path: pathlib.Path, slices: int, phases: int, decided: bool
) -> None:
    """A second series has the images of other slices under the same numbers, or those of the next phase."""
    tree = lay_out(real_data, tmp_path / "tree", 3)
    for original in ORIGINALS.values():
        images = sorted((tree / "challenge_training" / original).glob("*.dcm"))
        for index, path in enumerate(images):
            other = (index // 20 + slices) % (len(images) // 20) * 20 + (index + phases) % 20
            # The folder's first number sorts before the right one.
            copy = path.with_name(f"IM-0000-{index + 1:04d}.dcm")
            shutil.copyfile(images[other], copy)
    studies, findings = discovered(tree)
    if decided:
        assert findings == []
        for study in studies:
            assert used_series(study) == {f"challenge_training/{ORIGINALS[study.study_id]}/IM-{study.study_id[4:8]}"}
        assert len(studies) == 4
    else:
        assert studies == []
        assert rows_of(findings) == [("ambiguous_study", "error", study_id) for study_id in ORIGINALS]


def test_a_copy_of_the_series_is_reported_and_the_study_is_used(one: pathlib.Path) -> None:
    shutil.copytree(one / IMAGES / "CINESAX_300", one / IMAGES / "CINESAX_300 copy")
    (study,), findings = discovered(one)
    assert used_series(study) == {f"{IMAGES}/CINESAX_300/IM-0003"}
    finding = next(finding for finding in findings if finding.reason == "duplicate_image")
    assert (finding.level, finding.path) == ("warning", f"{IMAGES}/CINESAX_300 copy/IM-0003-…")


def test_series_description_says_what_the_folder_does_not(one: pathlib.Path) -> None:
    (one / IMAGES / "CINESAX_300").rename(one / IMAGES / "2")
    shutil.rmtree(one / IMAGES / "CINELAX_400")
    shutil.copytree(one / IMAGES / "2", one / IMAGES / "1")
    for path in (one / IMAGES / "1").iterdir():
        edited(path, SeriesDescription="long axis")
    (study,), _ = discovered(one)
    assert used_series(study) == {f"{IMAGES}/2/IM-0003"}


def test_a_series_whose_first_image_is_damaged_still_has_a_description(one: pathlib.Path) -> None:
    (one / IMAGES / "CINELAX_400").rename(one / IMAGES / "1")
    (one / IMAGES / "CINESAX_300").rename(one / IMAGES / "2")
    for folder, prefix in (("1", 4), ("2", 3)):
        (one / IMAGES / folder / f"IM-{prefix:04d}-0001.dcm").write_bytes(b"damaged")
    (study,), _ = discovered(one)
    assert used_series(study) == {f"{IMAGES}/2/IM-0003"}


@pytest.mark.parametrize(
    ("patient_id", "reason", "pairs"),
    [
        ("SC-HF-I-1", None, 12),
        ("sc-hf-i-001", None, 12),
        ("ANONYMOUS 7", "unconfirmed", 12),
        ("", "unconfirmed", 12),
        ("SCD0000201", "header_mismatch", 0),
        ("SC-HF-I-02", "header_mismatch", 0),
    ],
)
def test_a_patient_id_must_not_be_that_of_another_study(
    one: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path, patient_id: str, reason: str | None, pairs: int
) -> None:
    for path in (one / IMAGES / "CINESAX_300").iterdir():
        edited(path, PatientID=patient_id)
    for part in ("SCD_IMAGES_03", "SCD_ManualContours/SC-N-02"):
        shutil.copytree(whole / part, one / part)
    run(Config(one, tmp_path / "records", workers=2))
    rows = [row for row in audit_of(tmp_path / "records") if row["study_id"] == "SCD0000101"]
    found = {row["reason"] for row in rows} - {
        "unlabeled_images",
        "other_contours",
        "implausible_contour",
        "no_image",
        "incomplete_volumes",
    }
    assert found == ({reason} if reason else set())
    written = [row for row in read_table(tmp_path / "records/pairs.csv") if row["study_id"] == "SCD0000101"]
    assert len(written) == pairs
    assert patient_id not in {"ANONYMOUS 7"} or all(
        patient_id.encode() not in content for content in contents(tmp_path / "records").values()
    )


def test_one_image_of_another_patient_is_left_out_of_an_anonymous_series(
    one: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for path in (one / IMAGES / "CINESAX_300").iterdir():
        edited(path, PatientID="ANONYMOUS 8" if path.name == "IM-0003-0009.dcm" else "ANONYMOUS 7")
    run(Config(one, tmp_path / "records", workers=2))
    assert found_by(tmp_path / "records", "header_mismatch") == [("SCD0000101", "9", "error")]
    assert len(read_table(tmp_path / "records/pairs.csv")) == 11


def test_a_run_may_replace_records_of_a_study_that_has_become_ambiguous(
    whole: pathlib.Path, written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(whole, tmp_path / "tree")
    shutil.copytree(written, tmp_path / "records")
    shutil.copytree(tmp_path / "tree/SCD_IMAGES_01", tmp_path / "tree/SCD_IMAGES_09")
    run(Config(tmp_path / "tree", tmp_path / "records", overwrite=True, workers=2))
    assert found_by(tmp_path / "records", "ambiguous_study") == [("SCD0000101", "", "error")]
    assert {row["study_id"] for row in read_table(tmp_path / "records/studies.csv")} == {"SCD0001301", "SCD0003701"}


CANARY = "CANARY"


def test_nothing_of_headers_or_of_the_table_of_patients_leaves_a_run(
    one: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(whole / "SCD_IMAGES_02", one / "SCD_IMAGES_02")
    shutil.copytree(whole / "SCD_ManualContours/SC-HF-NI-03", one / "SCD_ManualContours/SC-HF-NI-03")
    for folder in (f"{IMAGES}/CINESAX_300", f"{IMAGES}/CINELAX_400", "SCD_IMAGES_02/SCD0001301/CINELAX_400"):
        for path in (one / folder).iterdir():
            with pydicom.config.disable_value_validation():
                edited(
                    path,
                    PatientID=f"{CANARY}1",
                    SeriesDescription=f"{CANARY} SAX {path.parent.name}",
                    PatientName=f"{CANARY}^A",
                    SeriesInstanceUID=f"1.2.{CANARY}",
                    SOPInstanceUID=f"1.2.{CANARY}.{path.name}",
                )
    (one / "scd_patientdata.csv").write_text(
        f"{HEADER}SCD0000101,SC-HF-I-2,{CANARY},{CANARY},{CANARY}\nSCD0000999,{CANARY}/,{CANARY},,\n", "ascii"
    )
    # An ambiguous study, whose finding names its series.
    second = one / "SCD_IMAGES_02/SCD0001301"
    shutil.copytree(second / "CINESAX_300", second / "CINESAX_301")
    for path in (second / "CINESAX_301").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = (dataset.pixel_array + 1).astype(np.int16).tobytes()
        dataset.SeriesDescription = CANARY
        dataset.save_as(path)
    records, report = tmp_path / "records", tmp_path / "report"
    outputs: dict[str, bytes] = {}
    for command in (
        ["preprocess", f"--data_dir={one}", f"--output_dir={records}"],
        ["preprocess.report", f"--data_dir={one}", f"--records_dir={records}", f"--output_dir={report}"],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, cwd=ROOT, check=True)
        outputs |= {f"{command[0]} stdout": done.stdout, f"{command[0]} stderr": done.stderr}
    reasons = {row["reason"] for row in audit_of(records)}
    assert {"ambiguous_study", "bad_link", "unconfirmed"} <= reasons
    # This name must be there: the search would find a canary.
    assert b"SCD0000101" in contents(records)["lv-train.tfrecord-00000-of-00001"]
    for name, content in {**contents(records), **contents(report), **outputs}.items():
        assert CANARY.encode() not in content, name
