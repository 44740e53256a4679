"""What hospitals, schedulers and disks do to a job."""

import contextlib
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline import verify
from preprocess import discover, sources
from preprocess import run as run_module
from preprocess.config import Config
from preprocess.errors import InputError
from preprocess.run import run

from .conftest import ROOT, contents


def records_of(tree: pathlib.Path, path: pathlib.Path, **settings: object) -> dict[str, bytes]:
    run(Config(data_dir=tree, output_dir=path, **settings))
    return dict(contents(path))


def command(tree: pathlib.Path, path: pathlib.Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "preprocess", f"--data_dir={tree}", f"--output_dir={path}", *flags]


# A process that has imported what the job needs, and forks a job for each line: so a job begins at once.
_NURSERY = """
import os, pathlib, sys
from preprocess.config import Config
from preprocess.run import run
print("ready", flush=True)
for line in sys.stdin:
    data, output = map(pathlib.Path, line.split())
    job = os.fork()
    if not job:
        run(Config(data_dir=data, output_dir=output, workers=2, overwrite=True))
        os._exit(0)
    print(job, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def nursery() -> Iterator[Callable[[pathlib.Path, pathlib.Path, float], int]]:
    """Gives a function that runs a job, kills it after so many seconds, and says how it ended."""
    command = [sys.executable, "-c", _NURSERY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == "ready\n"

        def job(tree: pathlib.Path, path: pathlib.Path, seconds: float) -> int:
            stdin.write(f"{tree} {path}\n")
            stdin.flush()
            number = int(stdout.readline())
            if not select.select([stdout], [], [], seconds)[0]:
                os.kill(number, signal.SIGKILL)
            return int(stdout.readline())

        yield job


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tree: pathlib.Path, tmp_path: pathlib.Path, kills: int) -> None:
    """The output is absent, or complete; the next run removes what was left behind."""
    path = tmp_path / "out" / "records"
    with nursery() as job:
        begin = time.monotonic()
        assert job(tree, path, 120) == 0
        seconds = time.monotonic() - begin
        expected = dict(contents(path))
        rng = random.Random(kills)
        how = []
        for _ in range(kills):
            if rng.random() < 0.5:
                shutil.rmtree(path, ignore_errors=True)
            how.append(job(tree, path, rng.uniform(0, seconds)))
            if path.exists():
                assert list(verify.faults(path)) == []
                assert contents(path) == expected
        assert how.count(-signal.SIGKILL) > kills / 2
        assert job(tree, path, 120) == 0
    assert os.listdir(path.parent) == ["records"]
    assert contents(path) == expected


def _wait_for(path: pathlib.Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@contextlib.contextmanager
def started(tree: pathlib.Path, path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A job that handles signals already: before that, Python itself starts."""
    with subprocess.Popen(
        command(tree, path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # A shell has its background jobs ignore Ctrl-C, and this test may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        status = pathlib.Path(f"/proc/{process.pid}/status")
        # The last one that is handled.
        while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & 1 << signal.SIGHUP - 1:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        yield process


def assert_interrupted(process: subprocess.Popen[str], path: pathlib.Path) -> None:
    """It ended with one line and left nothing behind, or had published already."""
    output, error = process.communicate(timeout=600)
    if process.returncode == 0:
        assert list(verify.faults(path)) == []
        assert os.listdir(path.parent) == [path.name]
        return
    said = [line for line in error.splitlines() if not re.match(r"[IWE]\d{4} |WARNING: All log messages before", line)]
    assert (process.returncode, output, said) == (1, "", ["preprocess: interrupted; nothing was published"])
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_job_writes(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    path = tmp_path / "out" / "records"
    with started(phantom_dir, path) as process:
        _wait_for(path.parent / ".records.partial" / "records", process)
        # As a terminal does: to all of its processes; a second one comes while the first is obeyed.
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        assert_interrupted(process, path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0, 0.2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_signal_while_the_job_starts(
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
        process.communicate(timeout=600)
    assert process.returncode == 0
    assert list(verify.faults(path)) == []


def _limited(tree: pathlib.Path, path: pathlib.Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    with pytest.raises(InputError, match="records: cannot be written: File too large"):
        run(Config(data_dir=tree, output_dir=path))


def test_no_room_for_the_output(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code = "import pathlib, sys; from tests.test_faults import _limited; _limited(*map(pathlib.Path, sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, str(tree), str(tmp_path / "out" / "records")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk; test_no_room_for_the_output stands in")
    try:
        with pytest.raises(InputError, match="records: cannot be written: No space left on device"):
            run(Config(data_dir=tree, output_dir=disk / "records"))
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_temporary_files_elsewhere(tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is renamed across file systems: the sibling is on the output's own."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    assert records_of(tree, tmp_path / "records")


def test_the_output_may_lie_within_the_data(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "records")
    assert records_of(tree, tree / "records") == expected
    assert records_of(tree, tree / "records", overwrite=True) == expected
    assert list(verify.faults(tree / "records")) == []


def test_two_jobs_at_once(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    jobs = [
        subprocess.Popen(command(tree, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [job.communicate(timeout=120)[1].splitlines()[-1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 1]
    loser = said[[job.returncode for job in jobs].index(1)]
    assert "another job is writing it now" in loser or "exists already" in loser
    assert list(verify.faults(path)) == []
    assert not (tmp_path / ".records.partial").exists()


@pytest.mark.parametrize("vanishes", ["dicoms/PHANTOM001/9.dcm", "contourfiles/PH-1/i-contours"])
def test_input_that_vanishes_after_it_was_listed(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, vanishes: str
) -> None:
    listed = discover.discover

    def discover_and_lose(source: sources.Source) -> object:
        found = listed(source)
        path = tree / vanishes
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    monkeypatch.setattr(discover, "discover", discover_and_lose)
    audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    lost = [line for line in audit.splitlines() if vanishes in line and ",error,unreadable" in line]
    assert lost
    assert all("cannot be read: No such file or directory" in line for line in lost)
    assert "PHANTOM002" in (tmp_path / "records" / "pairs.csv").read_text()


def test_input_that_is_cut_between_header_and_pixels(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = tree / "dicoms" / "PHANTOM001" / "9.dcm"
    with pytest.MonkeyPatch.context() as patch:
        examined = run_module._examine

        def examine_and_cut(*arguments: object) -> object:
            found = examined(*arguments)
            os.truncate(image, 2000)
            return found

        patch.setattr(run_module, "_examine", examine_and_cut)
        audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    assert "dicoms/PHANTOM001/9.dcm,9,error,unreadable_image" in audit
    assert "9,error,no_image" in audit
    assert list(verify.faults(tmp_path / "records")) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "link to nothing", "unreadable"])
def test_what_is_no_file_to_read(tree: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
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


def test_names_of_every_kind(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    folder = os.fsencode(tree / "dicoms" / "PHANTOM001")
    for name in (b"a b.dcm", b"a\nb.dcm", b"\xff\xfe.dcm", "π.dcm".encode(), b"9.dcm ", b"-rf", b'"quoted",.dcm'):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"text")
    found = records_of(tree, tmp_path / "records")
    changed = {name for name in found if found[name] != expected[name]}
    assert changed == {"audit.csv", "manifest.json"}
    assert "7 files passed over" in found["audit.csv"].decode()


def test_ten_thousand_junk_files(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number in range(10_000):
        (tree / "dicoms" / "PHANTOM001" / f"._{number}.dcm").touch()
    audit = records_of(tree, tmp_path / "records")["audit.csv"].decode()
    assert "10000 files passed over" in audit
    assert len(audit.splitlines()) < 20


def test_links_in_a_circle(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    (tree / "dicoms" / "PHANTOM001" / "again").symlink_to(tree)
    (tree / "dicoms" / "PHANTOM002" / "self").symlink_to("self")
    found = records_of(tree, tmp_path / "records")
    assert {name for name in found if found[name] != expected[name]} <= {"audit.csv", "manifest.json"}


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_output_for_any_workers_and_any_listing(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = records_of(tree, tmp_path / "expected", workers=2)
    walk = os.walk

    def shuffled(*arguments: object, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, subfolders, files in walk(*arguments, **options):
            random.Random(workers).shuffle(subfolders)
            random.Random(workers).shuffle(files)
            yield folder, subfolders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert records_of(tree, tmp_path / "records", workers=workers) == expected


def test_equal_output_in_any_locale_and_time_zone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = records_of(tree, tmp_path / "expected")
    elsewhere = {**os.environ, "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    flags = command(tree, tmp_path / "records", "--workers=3")
    subprocess.run(flags, check=True, capture_output=True, cwd=ROOT, env=elsewhere)
    assert contents(tmp_path / "records") == expected
