"""Runs each measurement in its own process, so that it does not share memory, threads or caches with another."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np


def measured(module: str, *arguments: str) -> dict[str, float]:
    """Runs a benchmark; returns the JSON object that it prints as its last line.

    Raises:
        RuntimeError: it failed; the message has the end of its standard error.
    """
    result = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over several measurements."""
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
