import contextlib
import dataclasses
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest

from pipeline import frames
from preprocess.config import Config
from preprocess.engines.local import Local
from preprocess.findings import FatalInputError
from preprocess.inputs.sources import Source

from .helpers import PATIENCE_SECONDS, ROOT, codecs
from .helpers.tables import audit_of
from .helpers.work import slow_first


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    (tmp_path / "data").mkdir()
    return Config(data_dir=tmp_path / "data", output_dir=tmp_path / "records", workers=2)


def folder_of(config: Config) -> pathlib.Path:
    assert isinstance(config.data_dir, pathlib.Path)
    return config.data_dir


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(tmp_path: pathlib.Path, workers: int) -> None:
    with Local(Config(data_dir=tmp_path, output_dir=tmp_path / "records", workers=workers)) as engine:
        assert list(engine.map(slow_first, [])) == []
        results = list(engine.map(slow_first, range(40)))
        assert [item for item, _ in results] == list(range(40))
        assert 1 <= len({process for _, process in results} - {os.getpid()}) <= workers
        assert [item for item, _ in engine.map(slow_first, range(3))] == [0, 1, 2]
    assert all(_ended(process) for _, process in results)


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def obey(source: Source, config: Config, paths: list[str]) -> list[str]:
    """Opens files and does what they say."""
    done = []
    for path in paths:
        try:
            with source.open(path) as file:
                word = file.read().decode()
        except OSError as error:
            word = str(error)
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "abort":
            os.abort()
        if word == "exit":
            os._exit(3)
        if word == "allocate":
            bytearray(5 << 30)
        done.append(word)
    return done


_DEATHS = [("kill", "SIGKILL"), ("abort", "SIGABRT"), ("exit", "exit status 3"), ("allocate", "out of memory")]


@pytest.mark.parametrize(("word", "how"), _DEATHS)
def test_a_file_that_ends_its_process_twice_is_lost_alone(
    config: Config, word: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcdef":
        (folder_of(config) / name).write_text(word if name in "bf" else name)
    items = [["a"], ["b", "c"], ["d", "b", "e"], ["f"], ["a", "f", "b", "c"]]
    with caplog.at_level(logging.WARNING), Local(config) as engine:
        found = list(engine.map(obey, items))
    lost = f"the process that read it died twice ({how})"
    assert found == [["a"], [lost, "c"], ["d", lost, "e"], [lost], ["a", lost, lost, "c"]]
    assert f"b: the process that read it died ({how}); another one reads it" in caplog.messages
    assert f"b: the process that read it died again ({how}); the file is left out" in caplog.messages


def wait_while_it_is_open(source: Source, config: Config, path: str) -> str:
    try:
        with source.open(path):
            time.sleep(PATIENCE_SECONDS)
    except OSError as error:
        return str(error)
    return "read"


def test_a_file_that_is_read_for_too_long_is_lost(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    # Nothing else is read, because a slow machine takes longer than this limit for any file.
    config = dataclasses.replace(config, file_timeout_s=0.05)
    (folder_of(config) / "a").touch()
    with caplog.at_level(logging.WARNING), Local(config) as engine:
        (found,) = engine.map(wait_while_it_is_open, ["a"])
    how = "it took longer than --file_timeout_s"
    assert found == f"the process that read it died twice ({how})"
    assert caplog.messages == [
        f"a: the process that read it died ({how}); another one reads it",
        f"a: the process that read it died again ({how}); the file is left out",
    ]


def clocks(source: Source, config: Config, item: int) -> list[float]:
    """Seconds that are left before, in, between and after two files."""
    found = [signal.getitimer(signal.ITIMER_REAL)[0]]
    for path in ("a", "b"):
        with source.open(path):
            # As if all this time had passed: more than a file has.
            left, _ = signal.setitimer(signal.ITIMER_REAL, 1000)
        found += [left, signal.getitimer(signal.ITIMER_REAL)[0]]
    return found


def test_each_file_has_the_same_time_and_nothing_else_is_timed(config: Config) -> None:
    (folder_of(config) / "a").touch()
    (folder_of(config) / "b").touch()
    with Local(dataclasses.replace(config, file_timeout_s=100)) as engine:
        ((before, first, between, second, after),) = engine.map(clocks, [0])
    assert (before, between, after) == (0, 0, 0)
    assert 0 < first <= 100
    assert 0 < second <= 100


def kept(records: pathlib.Path) -> list[bytes]:
    (shard,) = records.glob("*.tfrecord-?????-of-?????")
    return [data for _, data in frames.scan(shard)]


@pytest.mark.parametrize(
    ("codec", "how"),
    [
        ("never_return", "the process that read it died twice (it took longer than --file_timeout_s)"),
        ("kill", "the process that read it died twice (SIGSEGV)"),
        ("allocate", "the pixels cannot be decoded (RuntimeError)"),
    ],
)
def test_a_codec_that_does_not_do_its_work_costs_one_image(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, codec: str, how: str
) -> None:
    from preprocess.run import run

    run(Config(tree, tmp_path / "expected", workers=2))
    expected = kept(tmp_path / "expected")
    codecs.compress(tree, 9)
    codecs.install(monkeypatch, Local, codec)
    run(Config(tree, tmp_path / "records", workers=2))
    found = kept(tmp_path / "records")
    assert found == [data for data in expected if data in found]
    assert len(found) == len(expected) - 1
    of_contour, of_image = (row for row in audit_of(tmp_path / "records") if row["level"] == "error")
    assert (of_contour["reason"], of_contour["instance_number"]) == ("no_image", "9")
    assert (of_image["reason"], of_image["path"]) == ("unreadable_image", "dicoms/PHANTOM001/9.dcm")
    assert how in of_image["detail"]


def kill_once(marker: pathlib.Path, value: object = None) -> object:
    """Kills this process, unless one was killed before."""
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return value


class KillsAsItArrives(str):
    """A name of a marker; the first process that receives it is killed."""

    def __reduce__(self) -> tuple[object, ...]:
        return kill_once, (pathlib.Path(self), str(self))


class KillsAsItStarts(pathlib.PosixPath):
    """A data directory; the first worker that is started for it is killed."""

    def __reduce__(self) -> tuple[object, ...]:
        plain = pathlib.Path(os.fspath(self))
        return kill_once, (plain / "killed", plain)


def die_once(source: Source, config: Config, item: tuple[int, str, str]) -> bytes:
    number, moment, marker = item
    with source.open("a") as file:
        content = file.read()
        if number == 3 and moment == "while it reads":
            kill_once(pathlib.Path(marker))
    if number == 3 and moment == "without memory" and not pathlib.Path(marker).exists():
        pathlib.Path(marker).touch()
        bytearray(5 << 30)
    if number == 3 and moment == "while it sends" and not pathlib.Path(marker).exists():

        def send_half(self: Connection, message: bytes, *_: object) -> None:
            result = len(message) > 1000
            os.write(self.fileno(), message[: len(message) // 2] if result else message)
            if result:
                kill_once(pathlib.Path(marker))

        Connection._send = send_half  # type: ignore[attr-defined]
    return content * 5000 + bytes([number])


@pytest.mark.parametrize(
    "moment", ["as it starts", "as its task arrives", "while it reads", "without memory", "while it sends"]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_once_costs_nothing(
    config: Config, tmp_path: pathlib.Path, moment: str, workers: int
) -> None:
    (folder_of(config) / "a").write_text("content")
    marker = folder_of(config) / "killed"
    config = dataclasses.replace(config, workers=workers)
    if moment == "as it starts":
        config = dataclasses.replace(config, data_dir=KillsAsItStarts(folder_of(config)))
    kind = KillsAsItArrives if moment == "as its task arrives" else str
    with Local(config) as engine:
        found = list(engine.map(die_once, [(number, moment, kind(marker)) for number in range(8)]))
    assert found == [b"content" * 5000 + bytes([number]) for number in range(8)]
    assert marker.exists()


def test_workers_that_are_killed_between_two_stages_cost_nothing(config: Config) -> None:
    config = dataclasses.replace(config, workers=5)
    with Local(config) as engine:
        processes = {process for _, process in engine.map(slow_first, range(40))}
        for process in processes:
            os.kill(process, signal.SIGKILL)
        assert [item for item, _ in engine.map(slow_first, range(40))] == list(range(40))


def die(source: Source, config: Config, item: int) -> None:
    os._exit(item)


def raise_error(source: Source, config: Config, item: int) -> None:
    raise ZeroDivisionError("Name of a Patient")


def cannot_be_sent(source: Source, config: Config, item: int) -> bytes:
    with source.open("a") as file:
        file.read()
    return bytes(3 << 28)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (die, "^worker process: exit status 7; tried 3 times, and it was not reading a file"),
        (raise_error, r"^worker process: ZeroDivisionError at worker\.py:\d+ > test_engines\.py:\d+; this is a bug"),
        (cannot_be_sent, "^worker process: out of memory; tried 3 times"),
    ],
)
def test_a_failure_that_no_file_causes_ends_the_job_in_one_line(config: Config, work: Any, message: str) -> None:
    (folder_of(config) / "a").touch()
    with Local(config, worker_bytes=1 << 30) as engine, pytest.raises(FatalInputError, match=message) as caught:
        list(engine.map(work, [7, 7, 7]))
    assert "\n" not in str(caught.value)


def loaded(source: Source, config: Config, item: int) -> set[str]:
    return set(sys.modules)


def test_a_worker_starts_with_all_that_it_needs_and_without_tensorflow(config: Config) -> None:
    with Local(config) as engine:
        (modules,) = engine.map(loaded, [0])
    assert {"preprocess.stages.load", "preprocess.stages.render"} <= modules
    assert "tensorflow" not in modules


@pytest.mark.parametrize("open_files", [16, 24])
def test_few_open_files_allow_fewer_workers(config: Config, open_files: int) -> None:
    code = f"""
import pathlib, resource
from preprocess.config import Config
from preprocess.engines.local import Local
from tests.helpers.work import slow_first
resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))
path = pathlib.Path({str(config.data_dir)!r})
with Local(Config(data_dir=path, output_dir=path / "records", workers=30)) as engine:
    print(*(item for item, _ in engine.map(slow_first, range(40))))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.stdout.split(), result.stderr) == ([str(item) for item in range(40)], "")


@pytest.mark.parametrize("soft", [2 << 30, 8 << 30])
def test_a_worker_keeps_within_existing_limits(config: Config, soft: int) -> None:
    code = f"""
import pathlib, resource
from preprocess.config import Config
from preprocess.engines.local import Local
from tests.helpers.work import limits
resource.setrlimit(resource.RLIMIT_AS, ({soft}, {8 << 30}))
path = pathlib.Path({str(config.data_dir)!r})
with Local(Config(data_dir=path, output_dir=path / "records")) as engine:
    print(*next(engine.map(limits, [0])))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found, hard = map(int, result.stdout.split())
    assert (found <= soft, hard) == (True, 8 << 30)


def test_workers_end_with_the_process_that_started_them(tmp_path: pathlib.Path) -> None:
    code = f"""
import os, pathlib, signal
from preprocess.config import Config
from preprocess.engines.local import Local
from tests.helpers.work import slow_first
path = pathlib.Path({str(tmp_path)!r})
for _, process in Local(Config(data_dir=path, output_dir=path / "records", workers=2)).map(slow_first, range(9)):
    print(process, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == -signal.SIGKILL, result.stderr
    processes = {int(line) for line in result.stdout.split()}
    assert processes
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(map(_ended, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
