"""README.md and BUILD.md: every snippet runs, and the set-up is as they describe it."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from preprocess.config import Config
from preprocess.run import run

from .helpers import ROOT
from .helpers.documents import Block, blocks, environment, pins_of

SNIPPETS = [block for name in ("README.md", "BUILD.md") for block in blocks(name) if block.language]
SET_UP = "bash"


def test_the_snippets_are_python_and_shell() -> None:
    assert {block.language for block in SNIPPETS} == {"python", "sh", SET_UP}


@pytest.fixture(scope="module")
def records(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What ``make records`` writes."""
    path = tmp_path_factory.mktemp("readme") / "records"
    run(Config(phantom_dir, path))
    return path


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.heading, marks=pytest.mark.clients if "torch" in block.content else ())
        for block in SNIPPETS
        if block.language == "python"
    ],
)
def test_a_program_runs_as_it_is_shown(block: Block, records: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "records").symlink_to(records)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.content],
        cwd=tmp_path,
        env=environment(tmp_path / "bin"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("block", [block for block in SNIPPETS if block.language == "sh"], ids=lambda one: one.heading)
def test_a_command_runs_as_it_is_shown(block: Block, tmp_path: pathlib.Path) -> None:
    """make only prints what it would run; .ci/run runs it."""
    variables = environment(tmp_path / "bin")
    for line in block.content.replace(".venv/bin/python", "python").splitlines():
        folder, command = (ROOT, f"make --dry-run {line[5:]}") if line.startswith("make ") else (tmp_path, line)
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"


def test_the_extras_of_the_set_up_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "BUILD.md").read_text("utf-8")
    for extra in extras:
        assert f"`{extra}`" in text, extra


def test_a_script_anywhere_imports_the_project(tmp_path: pathlib.Path) -> None:
    """Because the set-up installs it."""
    (tmp_path / "script.py").write_text("import pipeline, preprocess\nprint(pipeline.__file__)\n")
    result = subprocess.run(
        [sys.executable, tmp_path / "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert pathlib.Path(result.stdout.strip()) == ROOT / "pipeline" / "__init__.py"


def test_requirements_do_not_contradict_each_other() -> None:
    pins: dict[str, set[str]] = {}
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "requirements.in", ROOT / "examples/requirements.txt"):
        for name, version in pins_of(path).items():
            pins.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}


def test_the_lock_has_every_direct_requirement_and_hashes_of_every_package() -> None:
    direct, locked = pins_of(ROOT / "requirements.in"), pins_of(ROOT / "requirements.txt")
    assert direct.items() <= locked.items()
    entries = re.split(r"^(?=\S)", (ROOT / "requirements.txt").read_text("utf-8"), flags=re.MULTILINE)
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    assert len(entries) == len(locked)
    for entry in entries:
        lines = entry.splitlines()
        assert len(lines) > 1
        for line in lines[1:]:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
