"""docs/sample: what a run on the phantom gives today."""

import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from .helpers import ROOT
from .helpers.documents import environment

SAMPLE = ROOT / "docs/sample"
LOG = (SAMPLE / "run.txt").read_text("utf-8")


class Run(NamedTuple):
    """What a command prints, and the directory that it runs in."""

    output: str
    directory: pathlib.Path


@pytest.fixture(scope="module")
def job(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first command of run.txt."""
    directory = tmp_path_factory.mktemp("sample")
    command = LOG.partition("\n")[0].removeprefix("$ python ").split()
    arguments = [re.sub("^--data_dir=.*", f"--data_dir={phantom_dir}", argument) for argument in command]
    variables = environment(directory / "bin")
    result = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=variables, capture_output=True, text=True, check=True
    )
    return Run(result.stdout, directory)


@pytest.mark.parametrize("name", ["audit.csv", "pairs.csv", "studies.csv"])
def test_a_table_of_the_sample_is_that_of_a_run(job: Run, name: str) -> None:
    assert (SAMPLE / name).read_text("utf-8") == (job.directory / "records" / name).read_text("utf-8")


def test_the_closing_lines_of_the_sample_are_those_of_a_run(job: Run) -> None:
    assert job.output
    shown, _, _ = LOG.partition("$ python -m pipeline.verify")
    assert shown.endswith(f"\n{job.output}")


def test_the_sample_is_verified_and_reported(job: Run) -> None:
    """The other commands of run.txt, of which the report prints only where it is."""
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", "records"],
        cwd=job.directory,
        env=environment(job.directory / "verify"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"$ python -m pipeline.verify records\n{result.stdout}" in LOG
