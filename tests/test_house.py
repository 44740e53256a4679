"""The arrows between the modules: who may import whom."""

import ast
import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

from .conftest import ROOT

# Each room of preprocess, from the ground up, and the rooms below it that it uses.
ROOMS = {
    "findings": set(),
    "geometry": {"findings"},
    "model": {"geometry"},
    "dicom": {"model", "findings"},
    "inputs": {"model", "findings", "geometry"},
    "quality": {"model", "findings", "geometry"},
    "output": {"model", "findings", "interrupts"},
    "config": {"model", "geometry", "output"},
    "stages": {"model", "findings", "config", "dicom", "geometry", "inputs", "output", "quality"},
    "engines": {"findings", "config", "inputs", "interrupts"},
    "report": {"model", "findings", "dicom", "geometry", "inputs", "output", "quality", "terminal"},
}

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


def files_of(*packages: str) -> list[pathlib.Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_only_rooms_below_it(room: str) -> None:
    path = ROOT / "preprocess" / room
    used = {
        name
        for file in ([path.with_suffix(".py")] if not path.is_dir() else path.rglob("*.py"))
        for name in imports_of(file)
    }
    rooms = {name.split(".")[1] for name in used if name.startswith("preprocess.")}
    assert rooms <= {room, *ROOMS[room]}


def test_reading_never_imports_preprocessing() -> None:
    for path in files_of("pipeline"):
        assert not {name for name in imports_of(path) if name.startswith("preprocess")}, path


def test_the_imports_make_no_circle() -> None:
    graph = {}
    for path in files_of("pipeline", "preprocess"):
        graph[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = imports_of(path)
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
        ("preprocess.inputs.challenge", set()),
        ("preprocess.inputs.exclusions", set()),
        ("preprocess.inputs.contours", set()),
        ("preprocess.stages.pairing", set()),
        ("preprocess.findings", set()),
        ("preprocess.config", set()),
        ("preprocess.geometry.grid", set()),
        ("preprocess.geometry.masks", {"cv2"}),
        ("preprocess.dicom.reader", {"pydicom", "tqdm"}),
        ("preprocess.__main__", {"absl"}),
    ],
)
def test_what_a_module_brings_with_it(module: str, allowed: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(FOREIGN) & set(result.stdout.split()) <= allowed


@pytest.mark.parametrize(
    "path",
    [path for path in files_of("pipeline", "preprocess") if ">>>" in path.read_text("utf-8")],
    ids=lambda path: path.stem,
)
def test_the_examples_in_docstrings_are_right(path: pathlib.Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
