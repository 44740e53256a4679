"""The fuzz targets with one seed: the same ``FUZZ_INPUTS`` inputs on every machine. make fuzz runs more."""

import os
import subprocess
import sys

import pytest

from .fuzz import TARGETS
from .helpers import ROOT

INPUTS = os.environ.get("FUZZ_INPUTS", "2000")


@pytest.mark.parametrize("target", TARGETS)
def test_any_damage_gives_a_result_or_the_documented_error(target: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", INPUTS, "0", target]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr[-10_000:]
