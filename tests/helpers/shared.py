"""Directories that the worker processes of pytest-xdist share."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

import pytest

from preprocess import phantom


@contextlib.contextmanager
def shared(factory: pytest.TempPathFactory, name: str) -> Iterator[pathlib.Path]:
    """Yields a path of this test run; the first worker process to arrive fills it while the others wait."""
    base = factory.getbasetemp()
    # The directory of a worker process is in that of the test run.
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def shared_phantom(factory: pytest.TempPathFactory, layout: str = "challenge") -> pathlib.Path:
    """The phantom in a layout, written once in a test run."""
    with shared(factory, f"phantom-{layout}") as path:
        if not path.exists():
            phantom.write_phantom(path, layout=layout)
    return path
