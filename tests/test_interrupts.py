import os
import pathlib
import signal
import subprocess
import sys

import pytest

from preprocess.config import Config
from preprocess.engines.local import Local

from .helpers import ROOT

_JOB = """
import os, pathlib, signal, sys
from preprocess import interrupts
from preprocess.output import publication

def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)

interrupts.handle()
moment = sys.argv[2]
if moment == "start":
    interrupt()
with publication.claimed(pathlib.Path(sys.argv[1]), False) as partial:
    if moment == "before":
        interrupt()
        print("waited")
    try:
        with interrupts.interruptible():
            if moment == "within":
                interrupt()
            print("worked")
    except KeyboardInterrupt:
        print("interrupted")
        interrupt()
    if moment == "after":
        interrupt()
    print("cleaned up")
"""


def test_ctrl_c_is_blocked_in_workers(tree: pathlib.Path) -> None:
    with Local(Config(tree, tree / "records", workers=1)) as local:
        assert all(local.map(_blocks_ctrl_c, [None]))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _blocks_ctrl_c(*_: object) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("moment", "status", "printed"),
    [
        ("start", 1, []),
        ("before", 0, ["waited", "interrupted", "cleaned up"]),
        ("within", 0, ["interrupted", "cleaned up"]),
        ("after", 0, ["worked", "cleaned up"]),
    ],
)
def test_a_signal_is_raised_where_a_job_says_so(
    tmp_path: pathlib.Path, moment: str, status: int, printed: list[str]
) -> None:
    command = [sys.executable, "-c", _JOB, str(tmp_path / "records"), moment]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stderr == ("preprocess: interrupted; nothing was published\n" if status else "")
    assert (result.returncode, result.stdout.split("\n")[:-1]) == (status, printed)
    assert os.listdir(tmp_path) == []


def test_a_job_that_is_interrupted_within_text_code_keeps_its_exit_status(tmp_path: pathlib.Path) -> None:
    tmp_path.joinpath("job.py").write_text(
        """
import os, signal, sys
from preprocess import interrupts

interrupts.handle()
interrupts.hold()
try:
    with interrupts.interruptible():
        exec("os.kill(os.getpid(), signal.SIGTERM)")
except KeyboardInterrupt:
    sys.exit(3)
"""
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    job = subprocess.run([sys.executable, "-m", "job"], check=False, cwd=tmp_path, env=environment)
    assert job.returncode == 3
