import pathlib
import shutil
import zipfile

import pytest

from preprocess.discover import discover
from preprocess.errors import InputError
from preprocess.sources import open_source

from .conftest import contents


def findings_of(tree: pathlib.Path) -> dict[str, list[str]]:
    """Details by reason."""
    found: dict[str, list[str]] = {}
    for finding in discover(open_source(tree))[1]:
        found.setdefault(finding.reason, []).append(f"{finding.path}: {finding.detail}")
    return found


def test_the_studies_of_a_folder(tree: pathlib.Path) -> None:
    studies, findings = discover(open_source(tree))
    assert findings == []
    assert [(study.study_id, study.contour_id) for study in studies] == [("PHANTOM001", "PH-1"), ("PHANTOM002", "PH-2")]
    assert list(studies[0].images) == [1, 9, 10, 21, 29]
    assert list(studies[0].contours["i"]) == [1, 9, 21, 29]
    assert list(studies[0].contours["o"]) == [1, 21]
    assert studies[0].contours["o"][21] == "contourfiles/PH-1/o-contours/IM-0001-0021-ocontour-manual.txt"


@pytest.mark.parametrize("depth", ["", "final_data/", "a/b c/d/"])
def test_at_any_depth_in_folder_and_zip(tree: pathlib.Path, tmp_path: pathlib.Path, depth: str) -> None:
    root = tmp_path / "deep" / depth
    root.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tree, root, dirs_exist_ok=True)
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents(tree).items():
            archive.writestr(depth + name, content)
    folder, archived = open_source(tmp_path / "deep"), open_source(tmp_path / "data.zip")
    assert discover(folder) == discover(archived)
    assert len(discover(folder)[0]) == 2
    path = discover(archived)[0][0].images[1]
    with folder.open(path) as one, archived.open(path) as other:
        assert one.read() == other.read()


def test_what_operating_systems_add_is_passed_over_and_counted(tree: pathlib.Path) -> None:
    study = tree / "dicoms" / "PHANTOM001"
    for path in (
        study / "._1.dcm",
        study / "._9.dcm",
        study / ".DS_Store",
        tree / "._link.csv",
        tree / "__MACOSX" / "dicoms" / "PHANTOM001" / "1.dcm",
        tree / "__MACOSX" / "link.csv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    assert len(discover(open_source(tree))[0]) == 2
    rest = "files passed over: no name of an image, a contour or link.csv"
    assert findings_of(tree) == {
        "junk": [
            f".: 1 {rest}",
            f"__MACOSX: 1 {rest}",
            f"__MACOSX/dicoms/PHANTOM001: 1 {rest}",
            f"dicoms/PHANTOM001: 3 {rest}",
        ]
    }


def test_names_that_fit_no_pattern_are_counted(tree: pathlib.Path) -> None:
    for name in (
        "dicoms/PHANTOM001/notes.txt",
        "dicoms/PHANTOM001/1.dcm.bak",
        "dicoms/PHANTOM001/deeper/2.dcm",
        "contourfiles/PH-1/IM-0001-0001-icontour-manual.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0001-ocontour-manual.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0009-icontour-auto.txt",
    ):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"")
    found = findings_of(tree)
    assert list(found) == ["junk"]
    assert [line.partition(" files")[0] for line in found["junk"]] == [
        "contourfiles/PH-1: 1",
        "contourfiles/PH-1/i-contours: 2",
        "dicoms/PHANTOM001: 2",
        "dicoms/PHANTOM001/deeper: 1",
    ]


@pytest.mark.parametrize(
    ("rows", "bad", "used"),
    [
        ("PHANTOM001,PH-1\nPHANTOM001,PH-1\n", ["line 3: the same row a second time"], ["PHANTOM001"]),
        ("PHANTOM001,PH-1\nPHANTOM001,PH-2\n", ["line 2: an id that other", "line 3: an id that other"], []),
        ("PHANTOM001,PH-1\nPHANTOM002,PH-1\n", ["line 2: an id that other", "line 3: an id that other"], []),
        ("PHANTOM001\n", ["line 2: an id that names no folder"], []),
        ("PHANTOM001,\n", ["line 2: an id that names no folder"], []),
        ("../PHANTOM001,PH-1\n", ["line 2: an id that names no folder"], []),
        ("..,PH-1\n", ["line 2: an id that names no folder"], []),
        ("/etc,PH-1\n", ["line 2: an id that names no folder"], []),
        ("C:\\x,PH-1\n", ["line 2: an id that names no folder"], []),
        ("PHANTOM001,a\x00b\n", ["line 2: an id that names no folder"], []),
        (" PHANTOM001 , PH-1 \r\n\r\nPHANTOM002,PH-2\r\n", [], ["PHANTOM001", "PHANTOM002"]),
    ],
)
def test_rows_of_link_csv(tree: pathlib.Path, rows: str, bad: list[str], used: list[str]) -> None:
    (tree / "link.csv").write_bytes(b"\xef\xbb\xbfpatient_id,original_id\r\n" + rows.encode())
    studies, _ = discover(open_source(tree))
    assert [study.study_id for study in studies] == used
    found = findings_of(tree).get("bad_link", [])
    assert len(found) == len(bad)
    assert all(line.startswith(f"link.csv: {start}") for line, start in zip(found, bad, strict=True))


def test_studies_that_are_missing_or_not_linked(tree: pathlib.Path) -> None:
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\nPHANTOM009,PH-2\n")
    assert findings_of(tree) == {
        "missing_study": [
            "dicoms/PHANTOM009: link.csv names it, but there is no dicoms/PHANTOM009; add the files or remove the row"
        ],
        "unlinked_study": ["dicoms/PHANTOM002: no row of link.csv names this folder; add one if it is wanted"],
    }


def test_two_files_of_one_number_are_both_left_out(tree: pathlib.Path) -> None:
    images, contours = tree / "dicoms" / "PHANTOM001", tree / "contourfiles" / "PH-1" / "i-contours"
    shutil.copy(images / "1.dcm", images / "001.dcm")
    shutil.copy(contours / "IM-0001-0009-icontour-manual.txt", contours / "IM-0002-0009-icontour-manual.txt")
    studies, _ = discover(open_source(tree))
    assert 1 not in studies[0].images
    assert 9 not in studies[0].contours["i"]
    found = findings_of(tree)
    assert [line.rpartition(": ")[2] for line in found["duplicate_image"]] == [
        "2 files bear the number 1; keep one"
    ] * 2
    assert [line.rpartition(": ")[2] for line in found["duplicate_contour"]] == [
        "2 files bear the number 9; keep one"
    ] * 2


def test_folders_behind_links_are_read_once(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "data").symlink_to(tree)
    (tree / "loop").symlink_to(root)
    assert len(discover(open_source(root))[0]) == 2


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("dicoms", r"holds no folder named dicoms; --data_dir holds dicoms/, contourfiles/ and link.csv"),
        ("contourfiles", "holds no folder named contourfiles"),
        ("link.csv", "holds no file named link.csv"),
    ],
)
def test_a_part_that_is_missing(tree: pathlib.Path, remove: str, message: str) -> None:
    (tree / remove).rename(tree / "elsewhere")
    with pytest.raises(InputError, match=message):
        discover(open_source(tree))


def test_a_part_that_is_there_twice(tree: pathlib.Path) -> None:
    shutil.copytree(tree / "dicoms", tree / "copy" / "dicoms")
    with pytest.raises(InputError, match="holds 2 folders named dicoms: copy/dicoms, dicoms; point --data_dir at one"):
        discover(open_source(tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"patient,original\nA,B\n", "does not name the columns patient_id,original_id"),
        (b"", "does not name the columns"),
        (b"patient_id,original_id\n\xff,B\n", "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_link_csv_that_is_none(tree: pathlib.Path, content: bytes, message: str) -> None:
    (tree / "link.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"link\.csv: .*{message}"):
        discover(open_source(tree))


def test_a_source_that_is_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder or zip archive; pass one as --data_dir"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "data.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"data\.zip: cannot be read as a zip archive"):
        open_source(tmp_path / "data.zip")
