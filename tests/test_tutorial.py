"""docs/TUTORIAL.md: every command prints what the tutorial shows."""

import pathlib
import re
import subprocess

import pytest

from .helpers.documents import blocks, environment

SET_UP = "bash"


def matches(shown: str, printed: str) -> bool:
    """Whether they are equal; … in what is shown stands for any text within a line."""
    return re.fullmatch("[^\n]*".join(map(re.escape, shown.split("…"))), printed) is not None


@pytest.mark.slow
def test_every_command_prints_what_is_shown(tmp_path: pathlib.Path) -> None:
    variables = environment(tmp_path / "bin")
    directory = tmp_path / "tutorial"
    directory.mkdir()
    count = 0
    shown_commands = 0
    for _, language, block in blocks("docs/TUTORIAL.md"):
        if language == "python":
            first = re.match(r"# (\w+\.py)\n", block)
            assert first
            (directory / first[1]).write_text(block, "utf-8")
            continue
        if language == SET_UP:
            continue
        assert language == "console"
        assert block.startswith("$ ")
        shown_commands += len(re.findall(r"^\$ ", block, re.MULTILINE))
        for command, shown in re.findall(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", block, re.MULTILINE):
            result = subprocess.run(
                ["bash", "-c", command], cwd=directory, env=variables, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{command}\n{result.stderr}"
            assert matches(shown, result.stdout), f"{command}\n{result.stdout}"
            count += 1
    assert count == shown_commands > 0


def test_the_ellipsis_stands_for_a_part_of_a_line() -> None:
    assert matches("Dice: 0.…\nend\n", "Dice: 0.947\nend\n")
    assert not matches("Dice: 0.…\n", "Dice: 0.947\nend\n")
    assert not matches("Dice: 0.…\n", "Dice: 1.000\n")
