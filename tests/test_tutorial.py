"""docs/TUTORIAL.md: every command prints what the tutorial shows."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from .conftest import ROOT

TEXT = (ROOT / "docs/TUTORIAL.md").read_text("utf-8")
SET_UP = "bash"


def matches(shown: str, printed: str) -> bool:
    """Whether they are equal, where … in what is shown stands for anything within a line."""
    return re.fullmatch("[^\n]*".join(map(re.escape, shown.split("…"))), printed) is not None


@pytest.mark.slow
def test_every_command_prints_what_is_shown(tmp_path: pathlib.Path) -> None:
    # `python` is this one, whatever else there is.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    directory = tmp_path / "tutorial"
    directory.mkdir()
    count = 0
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", block)[1]
            (directory / name).write_text(block, "utf-8")
            continue
        if language == SET_UP:
            continue
        assert language == "sh"
        assert block.startswith("$ ")
        for command, shown in re.findall(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", block, re.MULTILINE):
            result = subprocess.run(
                ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{command}\n{result.stderr}"
            assert matches(shown, result.stdout), f"{command}\n{result.stdout}"
            count += 1
    assert count == len(re.findall(r"^\$ ", TEXT, re.MULTILINE))


def test_the_ellipsis_stands_for_a_part_of_a_line() -> None:
    assert matches("Dice: 0.…\nend\n", "Dice: 0.947\nend\n")
    assert not matches("Dice: 0.…\n", "Dice: 0.947\nend\n")
    assert not matches("Dice: 0.…\n", "Dice: 1.000\n")
