"""Which layout a data set has, and data sets in several folders and archives."""

import dataclasses
import pathlib
import shutil
import zipfile

import pytest

from preprocess import phantom
from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.inputs import sources
from preprocess.layouts import discovery
from preprocess.run import run

from .helpers.tables import read_table
from .helpers.trees import contents, zipped

CONTOUR = "DataContours/SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt"


def settings(data_dir: sources.DataDir) -> Config:
    return Config(data_dir, pathlib.Path("unused"))


def choice(data_dir: pathlib.Path) -> discovery.Chosen:
    return discovery.choose(sources.open_source(data_dir), settings(data_dir))


def test_the_layout_is_the_one_whose_files_are_there(tree: pathlib.Path) -> None:
    assert choice(tree) == ("challenge", "dicoms/, contourfiles/, link.csv")


def test_a_layout_that_the_user_names_is_not_questioned(tree: pathlib.Path) -> None:
    config = dataclasses.replace(settings(tree), layout="sunnybrook")
    assert discovery.choose(sources.open_source(tree), config) == ("sunnybrook", "")


def test_two_layouts_in_one_data_set_are_not_guessed(tree: pathlib.Path) -> None:
    (tree / CONTOUR).parent.mkdir(parents=True)
    (tree / CONTOUR).write_text("1 2\n")
    expected = r"could have two layouts, challenge \(.*\) and sunnybrook \(.*\); pass the one to read as --layout"
    with pytest.raises(FatalInputError, match=expected):
        choice(tree)


def test_files_of_no_layout_are_refused_with_what_is_expected(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    expected = r"has no known layout; one of these is expected.*dicoms/, contourfiles/ and link.csv.*IRCCI-expert"
    with pytest.raises(FatalInputError, match=expected):
        choice(tmp_path)


def test_archives_beside_folders_are_named_where_nothing_else_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "images.zip").touch()
    expected = r"has no known layout.*; 1 archive there not read \(images.zip\): archives are read only from a folder"
    with pytest.raises(FatalInputError, match=expected):
        choice(tmp_path)
    (tmp_path / CONTOUR).parent.mkdir(parents=True)
    (tmp_path / CONTOUR).write_text("1 2\n")
    expected = r"contains no image like .*FLAGS=--data_dir=OTHER\); 1 archive there not read \(images.zip\)"
    with pytest.raises(FatalInputError, match=expected):
        run(dataclasses.replace(settings(tmp_path), output_dir=tmp_path / "records"))


@pytest.mark.parametrize(
    ("roi", "patterns"),
    [
        ("inner=LV endo", {"i": "LV endo"}),
        ("outer= LV, epi ,inner=LV=endo*", {"o": "LV, epi", "i": "LV=endo*"}),
        ("", {}),
    ],
)
def test_patterns_of_roi_names_may_hold_commas_and_spaces(roi: str, patterns: dict[str, str]) -> None:
    config = Config(pathlib.Path("data"), pathlib.Path("unused"), roi=roi)
    assert config.rois == patterns


@pytest.mark.parametrize("roi", ["endo", "inner=", "inner=a,inner=b", "myocardium=a", ",inner=a"])
def test_roi_without_a_kind_or_a_name_is_refused(roi: str) -> None:
    with pytest.raises(ValueError, match="inner=NAME,outer=NAME or one of the two expected"):
        Config(pathlib.Path("data"), pathlib.Path("unused"), roi=roi)


def test_settings_of_one_layout_are_refused_with_another() -> None:
    with pytest.raises(ValueError, match="roi is for the layout rtstruct, not for challenge"):
        Config(pathlib.Path("data"), pathlib.Path("unused"), layout="challenge", roi="inner=a")
    with pytest.raises(ValueError, match="contour_origin is not for the layout sunnybrook"):
        Config(pathlib.Path("data"), pathlib.Path("unused"), layout="sunnybrook", contour_origin="corner")


def test_an_origin_for_a_layout_that_states_it_ends_the_job_in_one_line(tmp_path: pathlib.Path) -> None:
    phantom.write_phantom(tmp_path / "data", layout="sunnybrook")
    with pytest.raises(FatalInputError, match="contour_origin is not for the layout sunnybrook, whose contours state"):
        run(Config(tmp_path / "data", tmp_path / "records", contour_origin="center"))


def parts_of(tree: pathlib.Path, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The studies' images in one archive, everything else in another."""
    folder.mkdir()
    images, others = folder / "images.zip", folder / "others.zip"
    with zipfile.ZipFile(images, "w") as first, zipfile.ZipFile(others, "w") as second:
        for name, content in contents(tree).items():
            (first if name.startswith("dicoms/") else second).writestr(name, content)
    return images, others


def test_several_archives_hold_the_same_records_as_one_folder(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archives = parts_of(tree, tmp_path / "parts")
    run(Config(tree, tmp_path / "expected"))
    (tmp_path / "parts" / "read_me.pdf").write_text("beside the archives")
    for name, data_dir in (("several", archives), ("folder", tmp_path / "parts")):
        run(Config(data_dir, tmp_path / name, workers=2))
        written, expected = contents(tmp_path / name), contents(tmp_path / "expected")
        shards = [name for name in expected if ".tfrecord" in name]
        assert shards
        assert [written[shard] for shard in shards] == [expected[shard] for shard in shards]
        paths = {row["contour_path"] for row in read_table(tmp_path / name / "pairs.csv")}
        assert {path.split("/")[0] for path in paths} == {"others.zip"}


def test_several_folders_and_archives_are_one_data_set(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.move(tree / "dicoms", images)
    archive = zipped(tree, tmp_path / "rest.zip")
    expected = sorted(f"images/{name}" for name in contents(images)) + sorted(f"rest.zip/{n}" for n in contents(tree))
    source = sources.open_source((images, archive))
    assert list(source.paths) == expected
    for path in (expected[0], expected[-1]):
        folder, _, name = path.partition("/")
        with source.open(path) as file, sources.reopen((images, archive)).open(path) as again:
            assert file.read() == again.read() == contents(images if folder == "images" else tree)[name]


def test_folders_of_one_name_cannot_be_combined(tmp_path: pathlib.Path) -> None:
    for name in ("a/data", "b/data"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FatalInputError, match=r"has the same name as .*a/data, so their files cannot be told apart"):
        sources.open_source((tmp_path / "a/data", tmp_path / "b/data"))


def test_archives_beside_folders_are_ordinary_files(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    zipped(tree, tree / "copy.zip")
    source = sources.open_source(tree)
    assert "copy.zip" in source.paths
    assert not any(path.startswith("copy.zip/") for path in source.paths)


def test_an_archive_that_changes_among_several_ends_the_job(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    images, others = parts_of(tree, tmp_path / "parts")
    with (
        pytest.raises(FatalInputError, match=r"others.zip: changed while it was read"),
        sources.unchanged((images, others)),
    ):
        others.write_bytes(images.read_bytes())
