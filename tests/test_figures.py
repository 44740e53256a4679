"""The figures of the documents: commands that exist, and what they print in place."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from benchmarks import figures

from .helpers import ROOT

TEXT = """Before.

<!-- figure: python -c "print('| DATA |')" -->
what an earlier run printed
<!-- end of figure -->

Between.

<!-- figure: python -c "raise SystemExit(3)" -->
kept
<!-- end of figure -->
"""


def test_a_figure_is_what_its_command_prints_and_when_and_where_it_ran(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "document.md"
    document.write_text(TEXT)
    monkeypatch.setattr("sys.argv", ["figures", f"--data_dir={tmp_path}/data", str(document)])
    assert figures.main() == 1
    assert "figures: the command failed with exit status 3\n" in capsys.readouterr().err
    written = document.read_text()
    block, rest = written.split("<!-- end of figure -->", 1)
    command, printed, caption = block.removeprefix("Before.\n\n").rstrip().split("\n\n")
    assert (command.splitlines()[0], printed) == (TEXT.splitlines()[2], f"| {tmp_path}/data |")
    assert caption.startswith("*`python -c \"print('| DATA |')\"`, 20")
    assert " cores of " in caption
    # A command that fails leaves its block as it was.
    assert rest == TEXT.split("<!-- end of figure -->", 1)[1]


def test_every_block_of_the_documents_is_a_figure_of_a_command_of_the_project() -> None:
    assert figures.documents()
    for document in figures.documents():
        found = figures.figures(document)
        assert len(found) == document.read_text("utf-8").count("<!-- figure") > 0
        assert len(set(found)) == len(found), "a command has one block in a document"
        for figure in found:
            program, flag, module = shlex.split(figure.command)[:3]
            assert (program, flag) == ("python", "-m")
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), figure


COMMANDS = [shlex.split(figure.command) for document in figures.documents() for figure in figures.figures(document)]


# Those that import TensorFlow take seconds.
@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=pytest.mark.slow if module.startswith("examples.") else ())
        for module in sorted({command[2] for command in COMMANDS})
    ],
)
def test_every_flag_of_a_figure_is_one_of_its_command(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    words = {word.partition("=")[0] for command in COMMANDS if command[2] == module for word in command[3:]}
    assert [word for word in sorted(words) if word.startswith("--") and word not in help_text] == []
