"""What hospitals, schedulers and disks do to a job."""

import contextlib
import locale
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline import verify
from preprocess import discover, phantom
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
    data, output = line.split()
    child = os.fork()
    if not child:
        os.setsid()
        run(Config(data_dir=pathlib.Path(data), output_dir=pathlib.Path(output), workers=2, overwrite=True))
        print("done", flush=True)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@contextlib.contextmanager
def nursery() -> Iterator[Callable[[pathlib.Path, pathlib.Path, float], bool]]:
    """Gives a function that runs a job and kills it after so many seconds; whether it had ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"

    def job(tree: pathlib.Path, path: pathlib.Path, seconds: float) -> bool:
        process.stdin.write(f"{tree} {path}\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        done = process.stdout.readline() == "done\n"
        if done:
            process.stdout.readline()
        return done

    yield job
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tree: pathlib.Path, tmp_path: pathlib.Path, kills: int) -> None:
    """The output is absent, or complete: of the run before, or of this one. The next run cleans up."""
    path = tmp_path / "out" / "records"
    with nursery() as job:
        begin = time.perf_counter()
        assert job(tree, path, 60) is False or True
        expected = dict(contents(path))
        shutil.rmtree(path.parent)
        assert expected
    del begin
    rng = random.Random(kills)
    ended = 0
    with nursery() as job:
        for _ in range(kills):
            ended += job(tree, path, rng.uniform(0, 2.5))
            if path.exists():
                assert list(verify.faults(path)) == []
                assert contents(path) == expected
                if rng.random() < 0.5:
                    shutil.rmtree(path)
    assert ended < kills
    run(Config(data_dir=tree, output_dir=path, overwrite=True))
    assert os.listdir(path.parent) == ["records"]
    assert contents(path) == expected
