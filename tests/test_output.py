import ctypes
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from pipeline import DatasetInfo, verify
from preprocess.config import Config
from preprocess.findings import FatalInputError
from preprocess.output import publication
from preprocess.run import run

from .helpers import ROOT
from .helpers.synthetic import write_small
from .helpers.trees import contents


def test_nothing_is_there_before_it_is_published(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "records"
    with publication.claimed(path, False) as partial:
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
    with pytest.raises(
        FatalInputError, match=r"records: exists already; choose another --output_dir, or pass --overwrite"
    ):
        write_small(tmp_path / "records", count=5)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [None, "notes.txt", "manifest.json"])
def test_a_directory_without_records_is_never_replaced(tmp_path: pathlib.Path, content: str | None) -> None:
    (tmp_path / "home").mkdir()
    if content:
        (tmp_path / "home" / content).write_text("{}")
    message = "is not a records directory with an intact manifest, so it is not replaced; choose another --output_dir"
    with pytest.raises(FatalInputError, match=f"home: {message}$"):
        write_small(tmp_path / "home", overwrite=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(FatalInputError, match="file: is not a records directory"):
        write_small(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["checkpoints/best.keras"], r"1 entry that its manifest does not name \('checkpoints'\)"),
        (["b", "a", "d\n", "c"], r"4 entries that its manifest does not name \('a', 'b', 'c', 1 more\)"),
    ],
)
def test_records_with_other_files_beside_them_are_not_replaced(
    tmp_path: pathlib.Path, names: list[str], message: str
) -> None:
    path = tmp_path / "records"
    write_small(path)
    for name in names:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("kept")
    before = contents(tmp_path)
    with pytest.raises(
        FatalInputError, match=rf"records: holds {message}, so it is not replaced; choose another --outp"
    ):
        write_small(path, count=5, overwrite=True)
    assert contents(tmp_path) == before


def test_a_file_that_is_put_there_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    write_small(path)
    with publication.claimed(path, True) as partial:
        (partial / "records").mkdir()
        (path / "best.keras").write_text("kept")
        with pytest.raises(FatalInputError, match="holds 1 entry that its manifest does not name"):
            publication.publish(partial / "records", path, True)
    assert (path / "best.keras").read_text() == "kept"
    assert DatasetInfo.load(path).cardinality == 4


def test_a_symbolic_link_is_not_replaced(tmp_path: pathlib.Path) -> None:
    write_small(tmp_path / "disk")
    (tmp_path / "records").symlink_to("disk")
    message = f"records: is a symbolic link, which is not replaced; pass --output_dir={tmp_path / 'disk'}$"
    with pytest.raises(FatalInputError, match=message):
        write_small(tmp_path / "records", count=5, overwrite=True)
    assert os.readlink(tmp_path / "records") == "disk"
    assert DatasetInfo.load(tmp_path / "records").cardinality == 4


def test_links_on_the_way_to_the_output_are_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/folder")
    write_small(tmp_path / "link" / ".." / "records")
    assert sorted(os.listdir(tmp_path / "disk")) == ["folder", "records"]


def test_records_of_other_studies_are_not_replaced(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    run(Config(tree, path))
    before = contents(path)
    link = (tree / "link.csv").read_text()
    (tree / "link.csv").write_text(link.replace("PHANTOM002,PH-2\n", ""))
    message = (
        r"holds records of 1 study that --data_dir does not name \(PHANTOM002\); choose another --output_dir \(with"
    )
    with pytest.raises(FatalInputError, match=f"records: {message}"):
        run(Config(tree, path, overwrite=True))
    assert contents(path) == before
    assert not (tmp_path / ".records.partial").exists()
    # It is enough that link.csv names the study: its files may be the problem.
    (tree / "link.csv").write_text(link)
    shutil.rmtree(tree / "dicoms" / "PHANTOM002")
    run(Config(tree, path, overwrite=True))
    assert DatasetInfo.load(path).studies == ("PHANTOM001",)


def _without_exchange(code: int | None) -> object:
    """A C library whose renameat2 fails with an error; None: a library without that function."""

    class Library:
        if code is not None:

            @staticmethod
            def renameat2(*_: object) -> int:
                ctypes.set_errno(code)
                return -1

    return Library()


@pytest.mark.parametrize("code", [0, None, errno.EINVAL, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_overwriting_replaces_the_whole_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    if code != 0:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: _without_exchange(code))
    write_small(tmp_path / "records", count=4)
    write_small(tmp_path / "records", count=5, overwrite=True)
    assert os.listdir(tmp_path) == ["records"]
    assert DatasetInfo.load(tmp_path / "records").cardinality == 5
    assert list(verify.faults(tmp_path / "records")) == []


def test_the_former_records_outlive_a_kill_between_two_renames(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    write_small(path, count=4)
    code = f"""
import os, pathlib, signal
from preprocess.output import publication

publication._exchange = lambda one, other: False
rename = pathlib.Path.rename

def rename_or_die(source, target):
    if target == pathlib.Path({str(path)!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target)

pathlib.Path.rename = rename_or_die
with publication.claimed(pathlib.Path({str(path)!r}), True) as partial:
    (partial / "records").mkdir()
    publication.publish(partial / "records", pathlib.Path({str(path)!r}), True)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGKILL
    # The next job empties the workspace, and no more.
    write_small(path, count=5)
    (former,) = tmp_path.glob("records-former-*")
    assert DatasetInfo.load(former).cardinality == 4
    assert DatasetInfo.load(path).cardinality == 5


def test_the_former_records_come_back_where_the_new_ones_cannot_take_their_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records"
    write_small(path, count=4)
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: _without_exchange(None))

    def rename(source: pathlib.Path, target: pathlib.Path) -> None:
        if (source.name, target) == ("records", path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.rename(source, target)

    with publication.claimed(path, True) as partial:
        (partial / "records").mkdir()
        monkeypatch.setattr(pathlib.Path, "rename", rename)
        with pytest.raises(OSError, match="Input/output error"):
            publication.publish(partial / "records", path, True)
    assert os.listdir(tmp_path) == ["records"]
    assert DatasetInfo.load(path).cardinality == 4


def test_finished_records_are_kept_where_the_former_ones_cannot_be_moved(tmp_path: pathlib.Path) -> None:
    """In a container, a directory of a lower layer cannot be renamed."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    write_small(tmp_path / "lower" / "records", count=4)
    code = (
        "import pathlib, sys; from tests.helpers import layers; layers.overwrite_in_a_layer(pathlib.Path(sys.argv[1]))"
    )
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    mount = f'mount -t overlay overlay -o {layers} "$0" || exit 77; exec "$@"'
    merged = tmp_path / "merged"
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, merged, sys.executable, "-c", code, merged],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if result.returncode in (1, 77) and "Traceback" not in result.stderr:
        pytest.skip("this user may not mount an overlay")
    assert result.returncode == 0, result.stderr


def test_the_output_is_never_absent_while_it_is_replaced(tmp_path: pathlib.Path) -> None:
    """The two directories are exchanged in one step, so a look-up always finds one of them."""
    write_small(tmp_path / "records", count=4)
    before = (tmp_path / "records").stat().st_ino
    seen: list[tuple[pathlib.Path, pathlib.Path]] = []
    rename = pathlib.Path.rename

    def note(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        seen.append((source, target))
        return rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", note)
        write_small(tmp_path / "records", count=5, overwrite=True)
    assert (tmp_path / "records").stat().st_ino != before
    assert not any(tmp_path / "records" in paths for paths in seen)


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    with publication.claimed(path, False) as partial:
        (partial / "records").mkdir()
        path.mkdir()
        with pytest.raises(FatalInputError, match="records: exists already"):
            publication.publish(partial / "records", path, False)
    assert list(path.iterdir()) == []


def leave_behind(path: pathlib.Path) -> pathlib.Path:
    """Makes the leftovers of a job that is killed while it writes."""
    code = """
import os, pathlib, sys
from preprocess.output import publication
claim = publication.claimed(pathlib.Path(sys.argv[1]), False)
partial = claim.__enter__()
(partial / "records").mkdir()
(partial / "records" / "train-00000").write_bytes(b"half")
(partial / "link").symlink_to(partial.parent)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)
    return path.with_name(f".{path.name}.partial")


def test_leftovers_of_a_killed_job_are_removed(tmp_path: pathlib.Path) -> None:
    assert len(contents(leave_behind(tmp_path / "records"))) == 2
    write_small(tmp_path / "records")
    assert os.listdir(tmp_path) == ["records"]


@pytest.mark.parametrize("files", [[], ["written-by"]])
def test_leftovers_of_a_job_killed_at_its_start_are_removed(tmp_path: pathlib.Path, files: list[str]) -> None:
    (tmp_path / ".records.partial").mkdir()
    for name in files:
        (tmp_path / ".records.partial" / name).touch()
    write_small(tmp_path / "records")
    assert os.listdir(tmp_path) == ["records"]


@pytest.mark.parametrize("kind", ["folder", "other marker", "file", "link", "link to nothing", "another user's"])
def test_a_folder_that_another_program_made_is_never_emptied(tmp_path: pathlib.Path, kind: str) -> None:
    partial = leave_behind(tmp_path / "records")
    if kind == "folder":
        (partial / "written-by").unlink()
    elif kind == "other marker":
        (partial / "written-by").write_text("rsync\n")
    elif kind == "file":
        shutil.rmtree(partial)
        partial.write_text("text")
    elif kind == "link":
        partial.rename(tmp_path / "victim")
        partial.symlink_to("victim")
    elif kind == "link to nothing":
        shutil.rmtree(partial)
        partial.symlink_to("nothing")
    elif os.geteuid():
        pytest.skip("only root can make a folder of another user")
    else:
        os.chown(partial, 65534, 65534)
    before = contents(tmp_path)
    with pytest.raises(
        FatalInputError, match=r"\.records\.partial: is where .* another program or user made it; move it away"
    ):
        write_small(tmp_path / "records")
    assert contents(tmp_path) == before
    assert os.path.lexists(partial)


def test_leftovers_are_kept_on_a_file_system_without_locks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    partial = leave_behind(tmp_path / "records")
    monkeypatch.setattr("fcntl.flock", no_locks)
    before = contents(tmp_path)
    with pytest.raises(
        FatalInputError, match=r"partial: belongs to a job that is running or was killed; if none is running, r"
    ):
        write_small(tmp_path / "records")
    assert contents(tmp_path) == before
    shutil.rmtree(partial)
    write_small(tmp_path / "records")
    assert os.listdir(tmp_path) == ["records"]


def test_a_second_job_to_one_output_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    with publication.claimed(path, False):
        with pytest.raises(
            FatalInputError, match="records: another job is writing it now; wait for it, or choose another"
        ):
            publication.claimed(path, False).__enter__()
        with publication.claimed(tmp_path / "others", False):
            pass
    with publication.claimed(path, False):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "new").write_text("a file"), "Not a directory|File exists"),
        (lambda root: (root / "new").mkdir(0o500), "Permission denied"),
        (lambda root: (root / "new").symlink_to("new"), "Too many levels of symbolic links|File exists"),
    ],
)
def test_an_output_that_cannot_be_written_is_named(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], object], message: str
) -> None:
    make(tmp_path)
    if "Permission" in message and os.access(tmp_path / "new", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(FatalInputError, match=rf"records: cannot be written: ({message})"):
        publication.claimed(tmp_path / "new" / "records", False).__enter__()


def test_no_space_is_an_error_about_the_output(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(FatalInputError, match="records: cannot be written: No space left on device"),
        publication.writing(tmp_path / "records"),
    ):
        pathlib.Path("/dev/full").write_text("text")
