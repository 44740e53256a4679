"""The arrows between the modules: who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

from .conftest import ROOT

STAGES = ("sources", "discover", "dicom", "values", "contours", "pairing", "grid", "masks", "audit", "writer")

FOREIGN = ("tensorflow", "keras", "pydicom", "cv2", "absl", "tqdm")


def imports_of(path: pathlib.Path) -> set[str]:
    """Modules of this project that a file names in an import, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            children = {f"{module}.{name.name}" for name in node.names}
            found |= {child for child in children if (ROOT / f"{child.replace('.', '/')}.py").exists()} or {module}
    return {name for name in found if name.partition(".")[0] in ("pipeline", "preprocess")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    # What a stage is handed is not a stage: discover looks through whatever source it gets.
    given = {"discover": {"sources"}}.get(stage, set())
    others = {f"preprocess.{other}" for other in STAGES if other != stage and other not in given}
    assert not imports_of(ROOT / "preprocess" / f"{stage}.py") & others


def test_reading_never_imports_preprocessing() -> None:
    for path in (ROOT / "pipeline").glob("*.py"):
        assert not {name for name in imports_of(path) if name.startswith("preprocess")}, path


def test_no_module_imports_itself_in_the_end() -> None:
    graph = {
        f"{package}.{path.stem}".removesuffix(".__init__"): imports_of(path)
        for package in ("pipeline", "preprocess")
        for path in (ROOT / package).glob("*.py")
    }
    # __init__ names what it loads lazily.
    graph["pipeline"] = set()
    done: list[str] = []
    while len(done) < len(graph):
        ready = [name for name, needs in graph.items() if name not in done and needs <= {*done, name}]
        assert ready, {name: needs - set(done) for name, needs in graph.items() if name not in done}
        done += ready


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("pipeline", set()),
        ("pipeline.batches", set()),
        ("pipeline.verify", set()),
        # TensorFlow brings Keras, and Keras looks for OpenCV.
        ("pipeline.dataset", {"tensorflow", "keras", "absl", "cv2", "tqdm"}),
        ("preprocess.discover", set()),
        ("preprocess.contours", set()),
        ("preprocess.pairing", set()),
        ("preprocess.audit", set()),
        ("preprocess.config", set()),
        ("preprocess.grid", set()),
        ("preprocess.masks", {"cv2"}),
        ("preprocess.dicom", {"pydicom", "tqdm"}),
        ("preprocess.__main__", {"absl"}),
    ],
)
def test_what_a_module_brings_with_it(module: str, allowed: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(FOREIGN) & set(result.stdout.split()) <= allowed
