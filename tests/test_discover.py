import contextlib
import errno
import os
import pathlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from preprocess.findings import FatalInputError
from preprocess.inputs import folders
from preprocess.inputs.sources import open_source
from preprocess.layouts.challenge import discover

from .helpers.trees import contents, zipped


def findings_of(tree: pathlib.Path) -> dict[str, list[str]]:
    """Details by reason."""
    found: dict[str, list[str]] = {}
    for finding in discover(open_source(tree))[1]:
        found.setdefault(finding.reason, []).append(f"{finding.path}: {finding.detail}")
    return found


def test_every_study_of_a_folder_is_listed_with_its_files(tree: pathlib.Path) -> None:
    studies, findings = discover(open_source(tree))
    assert findings == []
    assert [(study.study_id, study.contour_id) for study in studies] == [("PHANTOM001", "PH-1"), ("PHANTOM002", "PH-2")]
    assert list(studies[0].images) == [1, 9, 10, 21, 29]
    assert list(studies[0].contours["i"]) == [1, 9, 21, 29]
    assert list(studies[0].contours["o"]) == [1, 21]
    assert studies[0].contours["o"][21] == "contourfiles/PH-1/o-contours/IM-0001-0021-ocontour-manual.txt"


@pytest.mark.parametrize("depth", ["", "final_data/", "a/b c/d/"])
def test_studies_are_found_at_any_depth_of_a_folder_or_zip(
    tree: pathlib.Path, tmp_path: pathlib.Path, depth: str
) -> None:
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
    rest = "skipped: not named like an image, a contour or link.csv"
    assert findings_of(tree) == {
        "junk": [
            f".: 1 file {rest}",
            f"__MACOSX: 1 file {rest}",
            f"__MACOSX/dicoms/PHANTOM001: 1 file {rest}",
            f"dicoms/PHANTOM001: 3 files {rest}",
        ]
    }


def test_what_looks_like_an_image_or_a_contour_and_is_not_used_is_named(tree: pathlib.Path) -> None:
    for name in (
        "dicoms/notes.txt",
        "dicoms/2.dcm",
        "dicoms/PHANTOM001/README",
        "dicoms/PHANTOM001/1.dcm.bak",
        "dicoms/PHANTOM001/IM000002",
        "dicoms/PHANTOM001/old/PHANTOM001/3.dcm",
        "contourfiles/IM-0001-0001-icontour-manual.txt",
        "contourfiles/PH-1/IM-0001-0001-icontour-manual.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0001-ocontour-manual.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0009-icontour-auto.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0010-icontour-manual.txt.txt",
        "contourfiles/PH-1/i-contours/IM-0001-0010-icontour-manual (1).txt",
        "contourfiles/PH-1/i-contours/10.txt",
        "contourfiles/PH-1/i-contours/Thumbs.db",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"")
    studies, findings = discover(open_source(tree))
    assert list(studies[0].images) == [1, 9, 10, 21, 29]
    assert [(finding.path, int(finding.detail.split()[0])) for finding in findings if finding.reason == "junk"] == [
        ("contourfiles/PH-1/i-contours", 1),
        ("dicoms", 1),
        ("dicoms/PHANTOM001", 1),
    ]
    unused = {finding.path: finding for finding in findings if finding.reason == "unused_file"}
    assert {path: int(finding.detail.split()[0]) for path, finding in unused.items()} == {
        "contourfiles": 1,
        "contourfiles/PH-1": 1,
        "contourfiles/PH-1/i-contours": 5,
        "dicoms": 1,
        "dicoms/PHANTOM001": 2,
        "dicoms/PHANTOM001/old/PHANTOM001": 1,
    }
    assert unused["dicoms"].detail.startswith(
        "1 file looks like an image or contour and is not used: '2.dcm'; images are dicoms/STUDY/48.dcm, contours "
    )
    assert unused["contourfiles/PH-1/i-contours"].detail.startswith(
        "5 files look like images or contours and are not used: '10.txt', 'IM-0001-0001-ocontour-manual.txt', "
        "'IM-0001-0009-icontour-auto.txt', 2 more; images are "
    )


@pytest.mark.parametrize(
    ("rows", "bad", "used"),
    [
        ("PHANTOM001,PH-1\nPHANTOM001,PH-1\n", ["line 3: repeats an earlier row"], ["PHANTOM001"]),
        ("PHANTOM001,PH-1\nPHANTOM001,PH-2\n", ["line 2: another row links", "line 3: another row links"], []),
        ("PHANTOM001,PH-1\nPHANTOM002,PH-1\n", ["line 2: another row links", "line 3: another row links"], []),
        ("PHANTOM001\n", ["line 2: an id cannot be the name of a folder"], []),
        ("PHANTOM001,\n", ["line 2: an id cannot be the name of a folder"], []),
        ("../PHANTOM001,PH-1\n", ["line 2: an id cannot be the name of a folder"], []),
        ("..,PH-1\n", ["line 2: an id cannot be the name of a folder"], []),
        ("/etc,PH-1\n", ["line 2: an id cannot be the name of a folder"], []),
        ("C:\\x,PH-1\n", ["line 2: an id cannot be the name of a folder"], []),
        ("PHANTOM001,a\x00b\n", ["line 2: an id cannot be the name of a folder"], []),
        (" PHANTOM001 , PH-1 \r\n\r\nPHANTOM002,PH-2\r\n", [], ["PHANTOM001", "PHANTOM002"]),
    ],
)
def test_bad_rows_of_link_csv_are_named_and_not_used(
    tree: pathlib.Path, rows: str, bad: list[str], used: list[str]
) -> None:
    (tree / "link.csv").write_bytes(b"\xef\xbb\xbfpatient_id,original_id\r\n" + rows.encode())
    studies, _ = discover(open_source(tree))
    assert [study.study_id for study in studies] == used
    found = findings_of(tree).get("bad_link", [])
    assert len(found) == len(bad)
    assert all(line.startswith(f"link.csv: {start}") for line, start in zip(found, bad, strict=True))


def test_studies_that_are_missing_or_not_linked_are_reported(tree: pathlib.Path) -> None:
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\nPHANTOM009,PH-2\n")
    assert findings_of(tree) == {
        "missing_study": ["dicoms/PHANTOM009: link.csv names the study, but there is no dicoms/PHANTOM009"],
        "unlinked_study": ["dicoms/PHANTOM002: no row of link.csv names this folder"],
    }


def test_two_files_of_one_number_are_both_left_out(tree: pathlib.Path) -> None:
    images, contours = tree / "dicoms" / "PHANTOM001", tree / "contourfiles" / "PH-1" / "i-contours"
    shutil.copy(images / "1.dcm", images / "001.dcm")
    shutil.copy(contours / "IM-0001-0009-icontour-manual.txt", contours / "IM-0002-0009-icontour-manual.txt")
    studies, _ = discover(open_source(tree))
    assert 1 not in studies[0].images
    assert 9 not in studies[0].contours["i"]
    found = findings_of(tree)
    assert [line.rpartition(": ")[2] for line in found["duplicate_image"]] == ["2 files have the number 1"] * 2
    assert [line.rpartition(": ")[2] for line in found["duplicate_contour"]] == ["2 files have the number 9"] * 2


def test_a_link_to_a_folder_above_it_is_not_followed(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "data").symlink_to(tree)
    (tree / "loop").symlink_to(root)
    studies, findings = discover(open_source(root))
    assert len(studies) == 2
    assert [(finding.reason, finding.path) for finding in findings] == [("circular_link", "data/loop")]
    assert findings[0].detail == "leads to a folder that contains it, and is not followed"


def test_folders_that_links_share_are_listed_under_each_path(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = tmp_path / "store"
    (tree / "contourfiles/PH-1/o-contours").rename(store)
    shutil.rmtree(tree / "contourfiles/PH-2/o-contours")
    for contour_id in ("PH-1", "PH-2"):
        (tree / "contourfiles" / contour_id / "o-contours").symlink_to(store)
    # Listed before the folder itself.
    (tree / "a").symlink_to(tree / "dicoms/PHANTOM001")
    studies, findings = discover(open_source(tree))
    assert findings == []
    assert [list(study.contours["o"]) for study in studies] == [[1, 21], [1, 21]]
    assert list(studies[0].images) == [1, 9, 10, 21, 29]


def test_links_that_multiply_paths_are_refused(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten folders with ten links each make ten billion paths."""
    for level in range(11):
        (tmp_path / f"{level}").mkdir()
        (tmp_path / f"{level}" / "file").touch()
        for number in range(10 if level < 10 else 0):
            (tmp_path / f"{level}" / f"{number}").symlink_to(tmp_path / f"{level + 1}")
    (tree / "links").symlink_to(tmp_path / "0")
    monkeypatch.setattr(folders, "MAX_REPEATED", 10_000)
    with pytest.raises(
        FatalInputError, match="links lead to the same folders again and again: over 10000 names are listed"
    ):
        open_source(tree)


@contextlib.contextmanager
def nested(root: pathlib.Path, name: str, count: int) -> Iterator[None]:
    """Nests folders; their path may be too long for the system."""
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(count):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    try:
        yield
    finally:
        # Step by step: shutil.rmtree is recursive.
        for _ in range(count):
            above = os.open("..", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            os.rmdir(name, dir_fd=above)
            descriptor = above
        os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "count", "detail"),
    [
        ("f" * 250, 20, "cannot be listed: File name too long; nothing in it is used"),
        ("d", 1100, "cannot be listed: it lies more than 100 folders deep; nothing in it is used"),
    ],
)
def test_folders_too_deep_to_be_listed_are_a_row(tree: pathlib.Path, name: str, count: int, detail: str) -> None:
    with nested(tree / "dicoms" / "PHANTOM001", name, count):
        studies, (finding,) = discover(open_source(tree))
    assert list(studies[0].images) == [1, 9, 10, 21, 29]
    assert (finding.reason, finding.detail) == ("unreadable_folder", detail)
    assert finding.path.startswith(f"dicoms/PHANTOM001/{name}")


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[pathlib.Path], None]:
    """Makes listing a folder fail, also for root, whom permissions do not stop."""

    def forbid(folder: pathlib.Path) -> None:
        scandir = os.scandir

        def refuse(path: str) -> object:
            if pathlib.Path(path) == folder:
                raise PermissionError(errno.EACCES, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return forbid


def test_a_folder_of_contours_that_cannot_be_listed_is_a_row(
    tree: pathlib.Path, forbidden: Callable[[pathlib.Path], None]
) -> None:
    forbidden(tree / "contourfiles" / "PH-1" / "i-contours")
    studies, findings = discover(open_source(tree))
    assert (len(studies[0].contours["i"]), len(studies[1].contours["i"])) == (0, 4)
    assert [(finding.reason, finding.path, finding.detail) for finding in findings] == [
        (
            "unreadable_folder",
            "contourfiles/PH-1/i-contours",
            "cannot be listed: Permission denied; nothing in it is used",
        )
    ]


def test_a_broken_link_in_place_of_a_folder_of_contours_is_an_error(tree: pathlib.Path) -> None:
    shutil.rmtree(tree / "contourfiles/PH-1/i-contours")
    (tree / "contourfiles/PH-1/i-contours").symlink_to("nowhere")
    _, (finding,) = discover(open_source(tree))
    assert (finding.reason, finding.path) == ("unreadable_folder", "contourfiles/PH-1/i-contours")
    assert finding.detail == "is neither a folder nor a link to one; put the contours there"


def test_a_study_that_cannot_be_listed_is_not_called_missing(
    tree: pathlib.Path, forbidden: Callable[[pathlib.Path], None]
) -> None:
    forbidden(tree / "dicoms" / "PHANTOM001")
    studies, findings = discover(open_source(tree))
    assert [study.study_id for study in studies] == ["PHANTOM002"]
    assert [(finding.reason, finding.path) for finding in findings] == [("unreadable_folder", "dicoms/PHANTOM001")]


def test_data_that_cannot_be_listed_at_all_is_refused(
    tree: pathlib.Path, forbidden: Callable[[pathlib.Path], None]
) -> None:
    forbidden(tree / "dicoms")
    with pytest.raises(FatalInputError, match=r"contains no folder named dicoms; .*; dicoms cannot be listed"):
        discover(open_source(tree))
    forbidden(tree)
    with pytest.raises(FatalInputError, match="tree: cannot be listed: Permission denied"):
        open_source(tree)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (
            "dicoms",
            r"contains no folder named dicoms; .* are expected, at any depth of --data_dir \(make records DATA=…\)",
        ),
        ("contourfiles", "contains no folder named contourfiles"),
        ("link.csv", "contains no file named link.csv"),
    ],
)
def test_a_part_that_is_missing_is_named(tree: pathlib.Path, remove: str, message: str) -> None:
    (tree / remove).rename(tree / "elsewhere")
    with pytest.raises(FatalInputError, match=message):
        discover(open_source(tree))


def test_a_part_that_is_there_twice_is_refused(tree: pathlib.Path) -> None:
    shutil.copytree(tree / "dicoms", tree / "copy" / "dicoms")
    with pytest.raises(
        FatalInputError, match="contains 2 folders named dicoms: copy/dicoms, dicoms; pass the folder that contains one"
    ):
        discover(open_source(tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"patient,original\nA,B\n", "does not name the columns patient_id, original_id"),
        (b"", "does not name the columns"),
        (b"patient_id,original_id\n\xff,B\n", "cannot be read as UTF-8 CSV"),
        (
            b"patient_id,original_id,patient_id\nA,B,C\n",
            "names the column patient_id more than once; remove all but one",
        ),
        (
            b"patient_id,original_id\n\n",
            "contains no row below the first line; add a row patient_id,original_id for each",
        ),
    ],
)
def test_a_malformed_link_csv_is_refused(tree: pathlib.Path, content: bytes, message: str) -> None:
    (tree / "link.csv").write_bytes(content)
    with pytest.raises(FatalInputError, match=rf"link\.csv: .*{message}"):
        discover(open_source(tree))


def test_data_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    expected = r"nowhere: no such folder or zip archive; pass one as --data_dir \(make records DATA=…\)"
    with pytest.raises(FatalInputError, match=expected):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FatalInputError, match="cannot be opened: File name too long"):
        open_source(tmp_path / ("f" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FatalInputError, match="pipe: is neither a folder nor a file"):
        open_source(tmp_path / "pipe")


def packed(tree: pathlib.Path, path: pathlib.Path, mode: Any) -> bytes:
    with tarfile.open(path, mode) as archive:
        archive.add(tree)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tree, path: packed(tree, path, "w:gz"), r"is a gzip file; unpack it and pass the folder as --data_dir"),
        (lambda tree, path: packed(tree, path, "w:xz"), "is an xz file; unpack it"),
        (lambda tree, path: packed(tree, path, "w"), "is a tar archive; unpack it"),
        (lambda tree, path: zipped(tree, path).read_bytes()[:-100], "is a zip archive that is cut short: .*download"),
        (lambda tree, path: b"", "is an empty file; copy or download it again"),
        (lambda tree, path: b"no zip", "cannot be read as a zip archive .*; pass a folder or a zip archive"),
    ],
)
def test_a_file_that_is_not_a_zip_archive_is_refused(
    tree: pathlib.Path, tmp_path: pathlib.Path, make: Callable[[pathlib.Path, pathlib.Path], bytes], message: str
) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(make(tree, tmp_path / "other"))
    with pytest.raises(FatalInputError, match=rf"data\.zip: {message}"):
        open_source(path)
