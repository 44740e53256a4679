"""What hospitals, schedulers and disks do to a job."""

import contextlib
import functools
import itertools
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pydicom
import pytest

from pipeline import DatasetInfo, verify
from preprocess import engines, phantom, plan
from preprocess.config import Config
from preprocess.engines.local import Local
from preprocess.findings import FatalInputError
from preprocess.inputs import sources
from preprocess.layouts import challenge
from preprocess.run import run
from preprocess.stages import render

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers.trees import contents, listing, zipped


def records_of(tree: pathlib.Path, path: pathlib.Path, **settings: Any) -> dict[str, bytes]:
    run(Config(data_dir=tree, output_dir=path, **settings))
    return dict(contents(path))


def command(tree: pathlib.Path, path: pathlib.Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "preprocess", f"--data_dir={tree}", f"--output_dir={path}", *flags]


# A process that imports what the job needs, and forks a job for each line, so that a job starts quickly.
_NURSERY = """
import os, pathlib, signal, sys
from preprocess.config import Config
from preprocess.engines.local import Local
from preprocess.run import run
from tests.helpers.steps import before_step
data, output = map(pathlib.Path, sys.argv[1:])
for line in sys.stdin:
    job = os.fork()
    if not job:
        before_step(int(line), output.parent, lambda: os.kill(os.getpid(), signal.SIGKILL))
        run(Config(data_dir=data, output_dir=output, workers=2, overwrite=True))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def nursery(tree: pathlib.Path, path: pathlib.Path) -> Iterator[Callable[[int], int]]:
    """Yields a function that runs a job, kills it before a given step, and returns its exit status."""
    command = [sys.executable, "-c", _NURSERY, str(tree), str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def job(step: int) -> int:
            stdin.write(f"{step}\n")
            stdin.flush()
            return int(stdout.readline())

        yield job


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_killed_at_any_moment_leaves_whole_records_or_none(
    tree: pathlib.Path, tmp_path: pathlib.Path, stride: int
) -> None:
    """The output is absent or complete; the next run removes the leftovers."""
    path = tmp_path / "out" / "records"
    expected = records_of(tree, tmp_path / "expected")
    with nursery(tree, path) as job:
        for replaced in (False, True):
            for step in itertools.count(0, stride):
                if replaced and not path.exists():
                    shutil.copytree(tmp_path / "expected", path)
                elif not replaced:
                    shutil.rmtree(path, ignore_errors=True)
                end = job(step)
                if path.exists():
                    assert list(verify.faults(path)) == []
                    assert contents(path) == expected
                if end == 0:
                    break
                assert end == -signal.SIGKILL
            # The last job took fewer steps, so it was not killed; it started with the leftovers of the others.
            assert step >= 20
            assert os.listdir(path.parent) == ["records"]


def _wait_for(path: pathlib.Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@contextlib.contextmanager
def started(tree: pathlib.Path, path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A job that already handles signals: Python itself has started."""
    with subprocess.Popen(
        command(tree, path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # A shell makes its background jobs ignore Ctrl-C, and this test may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        status = pathlib.Path(f"/proc/{process.pid}/status")
        # SIGHUP is the last signal for which the job sets a handler.
        while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 1 << signal.SIGHUP - 1:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        yield process


def assert_interrupted(process: subprocess.Popen[str], path: pathlib.Path) -> None:
    """It ended with one line and left nothing behind, or had published already."""
    output, error = process.communicate(timeout=PATIENCE_SECONDS)
    if process.returncode == 0:
        assert list(verify.faults(path)) == []
        assert os.listdir(path.parent) == [path.name]
        return
    said = [line for line in error.splitlines() if not re.match(r"[IWE]\d{4} ", line)]
    assert (process.returncode, output, said) == (1, "", ["preprocess: interrupted; nothing was published"])
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_job_writes_leaves_nothing_behind(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    path = tmp_path / "out" / "records"
    with started(phantom_dir, path) as process:
        _wait_for(path.parent / ".records.partial" / "records", process)
        # To all processes, as a terminal does; the second signal arrives while the first is handled.
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        assert_interrupted(process, path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0, 0.2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_signal_while_the_job_starts_leaves_nothing_behind(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, seconds: float
) -> None:
    path = tmp_path / "out" / "records"
    path.parent.mkdir()
    with started(phantom_dir, path) as process:
        time.sleep(seconds)
        process.send_signal(number)
        assert_interrupted(process, path)


def test_a_signal_that_nohup_ignores_is_ignored(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    arguments = ["nohup", *command(tree, path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        _wait_for(path.with_name(".records.partial"), process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert list(verify.faults(path)) == []


def test_an_output_beyond_the_limit_of_a_file_leaves_nothing(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = subprocess.run(
        command(tree, tmp_path / "out" / "records"),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert result.returncode == 1, result.stderr
    assert "records: cannot be written: File too large" in result.stderr.splitlines()[-1]
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk_is_an_error_that_leaves_nothing(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk; the test above takes its place")
    try:
        with pytest.raises(FatalInputError, match="records: cannot be written: No space left on device"):
            run(Config(data_dir=tree, output_dir=disk / "records"))
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_temporary_files_on_another_file_system_change_nothing(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is renamed across file systems, because the job writes beside its output."""
    expected = records_of(tree, tmp_path / "expected")
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    assert records_of(tree, tmp_path / "records") == expected


def test_the_output_may_lie_within_the_data(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "records")
    assert records_of(tree, tree / "records") == expected
    assert records_of(tree, tree / "records", overwrite=True) == expected
    assert list(verify.faults(tree / "records")) == []


def test_one_of_two_jobs_at_once_publishes(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    jobs = [
        subprocess.Popen(command(tree, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [job.communicate(timeout=PATIENCE_SECONDS)[1].splitlines()[-1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 1]
    loser = said[[job.returncode for job in jobs].index(1)]
    assert "another job is writing it now" in loser or "exists already" in loser
    assert list(verify.faults(path)) == []
    assert not (tmp_path / ".records.partial").exists()


@pytest.mark.parametrize("vanishes", ["dicoms/PHANTOM001/9.dcm", "contourfiles/PH-1/i-contours"])
def test_input_that_vanishes_after_it_was_listed_is_a_row(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, vanishes: str
) -> None:
    listed = challenge.discover

    def discover_and_lose(source: sources.Listing) -> object:
        found = listed(source)
        path = tree / vanishes
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    monkeypatch.setattr(challenge, "discover", discover_and_lose)
    audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    lost = [line for line in audit.splitlines() if vanishes in line and ",error,unreadable" in line]
    assert lost
    assert all("cannot be read: No such file or directory" in line for line in lost)
    assert "PHANTOM002" in (tmp_path / "records" / "pairs.csv").read_text()


@pytest.mark.parametrize(
    "change",
    [
        pathlib.Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.replace(shutil.copy(path, path.with_name("copy")), path),
        lambda path: os.replace(zipped(path.parent / "tree" / "dicoms", path.with_name("other.zip")), path),
    ],
    ids=["deleted", "emptied", "cut", "replaced by a copy", "replaced by another"],
)
@pytest.mark.parametrize("moment", ["listed", "examined"])
def test_an_archive_that_changes_while_it_is_read_ends_the_job(
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[pathlib.Path], object],
    moment: str,
) -> None:
    path = zipped(tree, tmp_path / "data.zip")
    module, name = (challenge, "discover") if moment == "listed" else (plan, "_examine")
    before = getattr(module, name)

    def then_change(*arguments: object) -> object:
        found = before(*arguments)
        change(path)
        return found

    monkeypatch.setattr(module, name, then_change)
    with pytest.raises(FatalInputError, match=r"data\.zip: changed while it was read; run the job again") as raised:
        run(Config(path, tmp_path / "records"))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "records").exists()


def test_input_that_is_cut_between_header_and_pixels_is_a_row(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = tree / "dicoms" / "PHANTOM001" / "9.dcm"
    with pytest.MonkeyPatch.context() as patch:
        examined = plan._examine

        def examine_and_cut(*arguments: Any) -> object:
            found = examined(*arguments)
            os.truncate(image, 2000)
            return found

        patch.setattr(plan, "_examine", examine_and_cut)
        audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    assert "dicoms/PHANTOM001/9.dcm,9,error,changed_image" in audit
    assert "9,error,no_image" in audit
    assert list(verify.faults(tmp_path / "records")) == []


@pytest.mark.parametrize("element", ["PixelData", "RescaleSlope", "PhotometricInterpretation"])
def test_an_image_that_is_replaced_after_it_was_examined_is_left_out(
    tree: pathlib.Path, tmp_path: pathlib.Path, element: str
) -> None:
    """Otherwise its new pixels would be written, or its old ones on another scale."""
    path = tree / "dicoms" / "PHANTOM001" / "9.dcm"
    with pytest.MonkeyPatch.context() as patch:
        examined = plan._examine

        def examine_and_replace(*arguments: Any) -> object:
            found = examined(*arguments)
            dataset = pydicom.dcmread(path)
            other = pydicom.dcmread(tree / "dicoms" / "PHANTOM002" / "10.dcm").PixelData
            values = {"PixelData": other, "RescaleSlope": "0.5", "PhotometricInterpretation": "MONOCHROME1"}
            setattr(dataset, element, values[element])
            dataset.save_as(path)
            return found

        patch.setattr(plan, "_examine", examine_and_replace)
        audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    row = (
        "PHANTOM001,image,dicoms/PHANTOM001/9.dcm,9,error,changed_image,it changed while the job ran; run the job again"
    )
    assert f"{row},,1" in audit.splitlines()
    assert DatasetInfo.load(tmp_path / "records").splits["train"].count == 7


@pytest.mark.parametrize(
    ("contours", "name", "changed", "row", "records"),
    [
        ("i", "i", "other points", "changed_contour,it changed while the job ran; run the job again,i,1", 7),
        ("i", "i", "no text", 'unreadable_contour,"line 1 is not two numbers', 7),
        # The images of inner contours are also compared with the outer ones.
        ("i", "o", "other points", "changed_contour,it changed while the job ran; run the job again,o,0", 8),
        ("io", "o", "other points", "changed_contour,it changed while the job ran; run the job again,o,1", 3),
        ("i", "i", "other line ends", None, 8),
    ],
)
def test_a_contour_that_is_replaced_after_it_was_examined_is_left_out(
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
    contours: Literal["i", "io"],
    name: str,
    changed: str,
    row: str | None,
    records: int,
) -> None:
    """Otherwise its new points would be drawn, which no check has seen."""
    path = sorted(tree.rglob(f"*-{name}contour-manual.txt"))[0]
    text = path.read_text()
    contents = {
        "other points": "\n".join(f"{float(x) + 0.5} {y}" for x, y in map(str.split, text.splitlines())),
        "no text": "contour",
        "other line ends": text.replace("\n", "\r\n"),
    }
    with pytest.MonkeyPatch.context() as patch:
        examined = plan._examine

        def examine_and_replace(*arguments: Any) -> object:
            found = examined(*arguments)
            path.write_text(contents[changed], newline="")
            return found

        patch.setattr(plan, "_examine", examine_and_replace)
        audit = records_of(tree, tmp_path / "records", contours=contours)["audit.csv"].decode()
    assert "changed_contour" not in audit if row is None else f"error,{row}" in audit
    assert DatasetInfo.load(tmp_path / "records").splits["train"].count == records
    assert list(verify.faults(tmp_path / "records")) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "link to nothing", "unreadable"])
def test_an_image_that_is_not_a_readable_file_costs_its_pair_alone(
    tree: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    path = tree / "dicoms" / "PHANTOM001" / "9.dcm"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    else:
        path.write_bytes(b"")
        path.chmod(0)
    audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    assert "contourfiles/PH-1/i-contours/IM-0001-0009-icontour-manual.txt,9,error,no_image" in audit
    assert list(verify.faults(tmp_path / "records")) == []


def test_unusual_file_names_are_listed_and_change_no_record(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    folder = os.fsencode(tree / "dicoms" / "PHANTOM001")
    for name in (b"a b.dcm", b"a\nb.dcm", b"\xff\xfe.dcm", "π.dcm".encode(), b"9.dcm ", b"-rf", b'"quoted",.dcm'):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"text")
    found = records_of(tree, tmp_path / "records")
    changed = {name for name in found if found[name] != expected[name]}
    assert changed == {"audit.csv", "manifest.json"}
    audit = found["audit.csv"].decode()
    assert "1 file skipped" in audit
    assert "6 files look like images or contours and are not used: " in audit
    assert "'9.dcm ', 'a\\nb.dcm', 3 more" in audit


def test_ten_thousand_junk_files_are_counted_in_one_row(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number in range(10_000):
        (tree / "dicoms" / "PHANTOM001" / f"._{number}.dcm").touch()
    audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    assert "10000 files skipped" in audit
    assert len(audit.splitlines()) < 20


def test_links_in_a_circle_are_reported_and_change_no_record(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    (tree / "dicoms" / "PHANTOM001" / "again").symlink_to(tree)
    (tree / "dicoms" / "PHANTOM002" / "self").symlink_to("self")
    found = records_of(tree, tmp_path / "records")
    assert {name for name in found if found[name] != expected[name]} == {"audit.csv", "manifest.json"}
    assert "dicoms/PHANTOM001/again,,warning,circular_link" in found["audit.csv"].decode()


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_output_for_any_workers_and_any_listing(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = records_of(tree, tmp_path / "expected", workers=2)
    monkeypatch.setattr(os, "scandir", listing(random.Random(workers).shuffle))
    assert records_of(tree, tmp_path / "records", workers=workers) == expected


@pytest.mark.parametrize("contours", ["i", "o"])
def test_equal_measurements_for_a_study_in_several_shards(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, contours: str
) -> None:
    expected = records_of(tree, tmp_path / "expected", contours=contours)
    monkeypatch.setattr(render, "_MOST_MEASURED", 1)
    found = records_of(tree, tmp_path / "records", contours=contours, workers=3, num_shards=7)
    for name in ("pairs.csv", "studies.csv", "audit.csv", "records.npy"):
        assert found[name] == expected[name]


def test_a_study_larger_than_the_memory_of_a_worker_is_written(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images and masks take 126 MB; a worker may take 128 MiB to read, draw and send them."""
    folder = tree / "contourfiles" / "PH-1" / "i-contours"
    outline = (folder / phantom.contour_name(1, "i")).read_bytes()
    image = pydicom.dcmread(tree / "dicoms" / "PHANTOM001" / "1.dcm")
    image.Rows = image.Columns = 1024
    rng = np.random.default_rng(0)
    for number in range(201, 241):
        image.InstanceNumber = image.TriggerTime = number
        image.PixelData = rng.integers(0, 1000, (1024, 1024), "<i2").tobytes()
        image.save_as(tree / "dicoms" / "PHANTOM001" / f"{number}.dcm")
        (folder / phantom.contour_name(number, "i")).write_bytes(outline)
    monkeypatch.setattr(engines, "Local", functools.partial(Local, worker_bytes=128 << 20))
    summary = run(Config(data_dir=tree, output_dir=tmp_path / "records", workers=2))
    assert summary.records == {"train": 40}
    # The phantom's own images are smaller.
    assert summary.left_out.keys() == {"size_mismatch"}


def test_workers_that_are_killed_at_random_cost_nothing(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks lose their first process at a random moment."""
    expected = records_of(tree, tmp_path / "expected", num_shards=9)
    hand_out = Local._hand_out
    rng = random.Random(0)
    killed = []

    def hand_out_and_kill(local: Local, *arguments: Any) -> None:
        hand_out(local, *arguments)
        for worker in local._busy.values():
            task = worker.task.work, worker.task.number
            if task not in killed and rng.random() < 0.5:
                killed.append(task)
                worker.process.kill()

    monkeypatch.setattr(Local, "_hand_out", hand_out_and_kill)
    assert records_of(tree, tmp_path / "records", workers=2, num_shards=9) == expected
    assert killed


def test_only_lines_of_the_job_are_on_standard_error(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """TensorFlow and its libraries print nothing in between."""
    flags = command(tree, tmp_path / "records")
    result = subprocess.run(flags, check=True, capture_output=True, text=True, cwd=ROOT)
    lines = result.stderr.splitlines()
    assert lines
    assert [line for line in lines if not re.match(r"I\d{4} \S+ \d+ \w+\.py:\d+\] ", line)] == []


def test_equal_output_in_any_locale_and_time_zone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    elsewhere = {**os.environ, "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    flags = command(tree, tmp_path / "records", "--workers=3")
    subprocess.run(flags, check=True, capture_output=True, cwd=ROOT, env=elsewhere)
    assert contents(tmp_path / "records") == expected
