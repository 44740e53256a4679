"""An installation without TensorFlow, for those who read records with NumPy alone."""

import pathlib
import subprocess
import sys
import zlib

import pytest

from pipeline import iterate_batches, verify

from .helpers import ROOT
from .helpers.documents import blocks, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the sources, because a build writes beside them."""
    path = tmp_path / "source"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.split("\0")[:-1]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes((ROOT / name).read_bytes())
    return path


def test_the_commands_without_make_write_records(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (lines,) = (block.content for block in blocks("BUILD.md") if block.language == "bash")
    variables = environment(tmp_path / "bin")
    del variables["PYTHONPATH"]
    subprocess.run(["bash", "-e", "-c", lines], cwd=source, env=variables, check=True)
    assert list(verify.faults(source / "records")) == []


def test_reading_works_in_an_environment_without_tensorflow(
    phantom_records: pathlib.Path, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", source], check=True)
    code = f"""
import importlib.util, zlib
assert importlib.util.find_spec("tensorflow") is None
from pipeline import iterate_batches
for images, masks in iterate_batches({str(phantom_records)!r}, seed=3, epochs=1, standardize=True):
    print(zlib.crc32(images.tobytes()), zlib.crc32(masks.tobytes()))
"""
    result = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = [
        f"{zlib.crc32(images.tobytes())} {zlib.crc32(masks.tobytes())}"
        for images, masks in iterate_batches(phantom_records, seed=3, epochs=1, standardize=True)
    ]
    assert result.stdout.splitlines() == expected
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    packages = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert packages - {"pip", "setuptools"} == {"cardiac-lv-records", "numpy", "google-crc32c"}

    verified = subprocess.run([python, "-m", "pipeline.verify", str(phantom_records)], cwd=tmp_path, check=False)
    assert verified.returncode == 0
    asked = (
        f"from pipeline import *; print(len(Records({str(phantom_records)!r}))); make_dataset({str(phantom_records)!r})"
    )
    failed = subprocess.run([python, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.stdout == "36\n"
    assert "make_dataset needs TensorFlow: pip install tensorflow" in failed.stderr

    for module in ("preprocess", "preprocess.report"):
        command = [str(python), "-m", module, "--help"]
        refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert "pip install '.[preprocess]' in the project's folder, '.[preprocess,report]' for the report too" in line
