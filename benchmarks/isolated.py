"""Measurements in a process of their own, so that none has another's memory, threads or caches."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np


def measured(module: str, *arguments: str) -> dict[str, float]:
    """What a benchmark prints as its last line, a JSON object, when it is run with these arguments.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    result = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over several measurements."""
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
