import os
import pathlib
from collections.abc import Callable

import pytest

from pipeline import DatasetInfo, verify
from preprocess import output
from preprocess.errors import InputError

from .conftest import contents, synthetic_arrays, write_synthetic


def write_small(path: pathlib.Path, count: int = 4, overwrite: bool = False) -> None:
    write_synthetic(path, *synthetic_arrays(count), overwrite=overwrite)


def test_nothing_is_there_before_it_is_published(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "records"
    with output.claimed(path, False) as partial:
        (partial / "records").mkdir()
        assert not path.exists()
        assert list(path.parent.iterdir()) == [partial]
    assert list(path.parent.iterdir()) == []


def test_a_published_directory_has_the_mode_of_any(tmp_path: pathlib.Path) -> None:
    (tmp_path / "plain").mkdir()
    write_small(tmp_path / "records")
    assert (tmp_path / "records").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_output_is_not_touched(tmp_path: pathlib.Path) -> None:
    write_small(tmp_path / "records")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"records: exists already; choose another --output_dir, or pass --overwrite"):
        write_small(tmp_path / "records", count=5)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [None, "notes.txt", "manifest.json"])
def test_what_is_not_ours_is_never_replaced(tmp_path: pathlib.Path, content: str | None) -> None:
    (tmp_path / "home").mkdir()
    if content:
        (tmp_path / "home" / content).write_text("{}")
    with pytest.raises(InputError, match=r"home: is no records directory .* so it is not replaced; remove it yourself"):
        write_small(tmp_path / "home", overwrite=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="file: is no records directory"):
        write_small(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("in_one_step", [True, False])
def test_overwriting_replaces_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool) -> None:
    if not in_one_step:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    write_small(tmp_path / "records", count=4)
    write_small(tmp_path / "records", count=5, overwrite=True)
    assert os.listdir(tmp_path) == ["records"]
    assert DatasetInfo.load(tmp_path / "records").cardinality == 5
    assert list(verify.faults(tmp_path / "records")) == []


def test_the_output_is_never_away_while_it_is_replaced(tmp_path: pathlib.Path) -> None:
    """A directory that is open keeps its inode: the new one is swapped in, so a look-up always finds one of the two."""
    write_small(tmp_path / "records", count=4)
    before = (tmp_path / "records").stat().st_ino
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", lambda *paths: seen.append(paths) or os.rename(*paths))
        write_small(tmp_path / "records", count=5, overwrite=True)
    assert (tmp_path / "records").stat().st_ino != before
    assert not any(tmp_path / "records" in paths for paths in seen)


def test_an_output_that_comes_into_being_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    with output.claimed(path, False) as partial:
        (partial / "records").mkdir()
        path.mkdir()
        with pytest.raises(InputError, match="records: exists already"):
            output.publish(partial / "records", path, False)
    assert list(path.iterdir()) == []


def test_what_a_killed_job_left_behind_is_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".records.partial" / "records").mkdir(parents=True)
    (tmp_path / ".records.partial" / "records" / "train-00000").write_bytes(b"half")
    (tmp_path / ".records.partial" / "link").symlink_to(tmp_path)
    with output.claimed(tmp_path / "records", False) as partial:
        assert list(partial.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_to_one_output(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    with output.claimed(path, False):
        with pytest.raises(InputError, match="records: another job is writing it now; wait for it, or choose another"):
            output.claimed(path, False).__enter__()
        with output.claimed(tmp_path / "others", False):
            pass
    with output.claimed(path, False):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "new").write_text("a file"), "Not a directory|File exists"),
        (lambda root: (root / "new").mkdir(0o500), "Permission denied"),
        (lambda root: (root / "new").symlink_to("new"), "Too many levels of symbolic links|File exists"),
    ],
)
def test_an_output_that_cannot_be_written(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], object], message: str
) -> None:
    make(tmp_path)
    if "Permission" in message and os.access(tmp_path / "new", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match=rf"records: cannot be written: ({message})"):
        output.claimed(tmp_path / "new" / "records", False).__enter__()


def test_no_space_is_an_error_about_the_output(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(InputError, match="records: cannot be written: No space left on device"),
        output.writing(tmp_path / "records"),
    ):
        pathlib.Path("/dev/full").write_text("text")
