import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from preprocess.config import Config
from preprocess.sources import Source
from preprocess.workers import Local

from .conftest import PATIENCE_SECONDS, ROOT


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    (tmp_path / "data").mkdir()
    return Config(data_dir=tmp_path / "data", output_dir=tmp_path / "records", workers=2)


def slow_first(source: Source, config: Config, item: int) -> tuple[int, int]:
    if item == 0:
        time.sleep(0.3)
    return item, os.getpid()


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


@pytest.mark.parametrize(("word", "how"), [("kill", "SIGKILL"), ("abort", "SIGABRT"), ("exit", "exit status 3")])
def test_a_file_that_ends_its_process_is_lost_alone(
    config: Config, word: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcdef":
        (config.data_dir / name).write_text(word if name in "bf" else name)
    items = [["a"], ["b", "c"], ["d", "b", "e"], ["f"], ["a", "f", "b", "c"]]
    with caplog.at_level(logging.WARNING), Local(config) as engine:
        found = list(engine.map(obey, items))
    lost = "the process that read it ended"
    assert found == [["a"], [lost, "c"], ["d", lost, "e"], [lost], ["a", lost, lost, "c"]]
    assert f"b: the process that read it ended ({how}); it is left out" in caplog.messages


def die(source: Source, config: Config, item: int) -> None:
    os._exit(item)


def raise_error(source: Source, config: Config, item: int) -> None:
    raise ZeroDivisionError("of our own making")


@pytest.mark.parametrize(
    ("work", "message"),
    [(die, "a worker ended .exit status 7., and no file is to blame"), (raise_error, "ZeroDivisionError: of our own")],
)
def test_what_is_no_fault_of_a_file_ends_the_job(config: Config, work: object, message: str) -> None:
    with Local(config) as engine, pytest.raises(RuntimeError, match=message):
        list(engine.map(work, [7, 7, 7]))


def test_workers_end_with_the_process_that_began_them(tmp_path: pathlib.Path) -> None:
    code = f"""
import os, pathlib, signal
from preprocess.config import Config
from preprocess.workers import Local
from tests.test_engines import slow_first
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
