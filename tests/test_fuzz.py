"""The fuzz targets with one seed: the same inputs on every machine. make fuzz runs more."""

import subprocess
import sys

import pytest

from .fuzz import TARGETS
from .helpers import ROOT


@pytest.mark.parametrize("count", ["1000", pytest.param("5000", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS)
def test_any_damage_gives_a_result_or_the_documented_error(target: str, count: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", count, "0", target]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr[-10_000:]
