"""What the Makefile removes, and what git ignores."""

import os
import pathlib
import shutil
import subprocess

import pytest

from .helpers import ROOT


def run(*command: str, cwd: pathlib.Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_make_clean_keeps_what_make_does_not_make_again(tmp_path: pathlib.Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv", "build/phantom", "build/bench", "build/tutorial", "tutorial", "records", "report"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    run("make", "clean", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["Makefile", "build", "records", "report", "tutorial"]
    assert os.listdir(tmp_path / "build") == ["tutorial"]


def test_make_says_when_it_uses_the_phantom() -> None:
    for target in ("records", "report"):
        assert "the built-in phantom" in run("make", "--dry-run", target, cwd=ROOT)
        assert "the built-in phantom" not in run("make", "--dry-run", target, "DATA=data", cwd=ROOT)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_data_and_records_in_the_checkout_are_not_shown_by_git(tmp_path: pathlib.Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    names = [
        "mine/audit.csv", "data.zip", "report/index.html", "link.csv",
        "docs/mine/1.dcm", "tests/records/lv-train.tfrecord-00000-of-00001.idx",
        "examples/contourfiles/IM-0001-0048-icontour-manual.txt",
    ]  # fmt: skip
    kept = ["CHANGELOG.md", "docs/new.md", "pipeline/new.py", "requirements-new.txt"]
    for name in (*names, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shown = run("git", "ls-files", "--others", "--exclude-standard", cwd=tmp_path).split()
    assert shown == [".gitignore", *kept]
