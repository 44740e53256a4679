"""Runs the programs of this project."""

import subprocess
import sys

from . import ROOT


def preprocess(*arguments: object, module: str = "preprocess") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
