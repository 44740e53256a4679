"""Rules of the house: which module may import which, and what tests share."""

import ast
import doctest
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from .helpers import ROOT

# Each room of preprocess, from the ground up, and the rooms below it that it uses.
ROOMS = {
    "findings": set(),
    "tables": {"findings"},
    "geometry": {"findings"},
    "model": {"geometry"},
    "dicom": {"model", "findings"},
    "urls": {"findings"},
    "inputs": {"model", "findings", "geometry", "tables", "dicom", "urls"},
    "quality": {"model", "findings", "geometry"},
    "output": {"model", "findings", "interrupts", "urls"},
    "config": {"model", "geometry", "inputs", "output", "urls"},
    "stages": {"model", "findings", "config", "dicom", "geometry", "inputs", "output", "quality"},
    "engines": {"findings", "config", "inputs", "interrupts", "output"},
    "layouts": {
        "model",
        "findings",
        "config",
        "dicom",
        "engines",
        "geometry",
        "inputs",
        "quality",
        "tables",
        "terminal",
    },
    "report": {
        "model",
        "findings",
        "dicom",
        "geometry",
        "inputs",
        "output",
        "quality",
        "tables",
        "terminal",
        "config",
        "engines",
        "layouts",
        "urls",
    },
}

FOREIGN = ("tensorflow", "keras", "pydicom", "cv2", "absl", "tqdm")


def imports_of(path: pathlib.Path) -> set[str]:
    """Modules of this project that a file imports, at any level."""
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
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    assert found, packages
    return found


def test_every_folder_of_preprocess_is_a_room() -> None:
    folders = {path.parent.name for path in (ROOT / "preprocess").glob("*/__init__.py")}
    assert folders <= set(ROOMS)


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


def test_no_test_module_is_imported() -> None:
    """Shared helpers are in tests/helpers. The text is searched, because tests run programs that are strings."""
    for path in files_of("tests"):
        assert not re.search(r"(from|import) +[\w.]*\btest_\w", path.read_text()), path


def test_conftest_has_fixtures_and_hooks_alone() -> None:
    for node in ast.parse((ROOT / "tests/conftest.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            fixture = any("pytest.fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
            assert fixture or node.name.startswith("pytest_"), node.name
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


def test_every_test_checks_something() -> None:
    for path in files_of("tests"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = [ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)]
                asserts = any(isinstance(one, ast.Assert) for one in ast.walk(node))
                assert asserts or any(re.search(r"\b(assert_\w+|raises|warns)$", call) for call in calls), node.name


def test_every_test_that_the_documents_name_exists() -> None:
    tests = {path: path.read_text() for path in files_of("tests") if path.name.startswith("test_")}
    defined = {path.stem: re.findall(r"^def (test_\w+)", text, re.MULTILINE) for path, text in tests.items()}
    everything = {name for names in defined.values() for name in names}
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        cited = re.findall(r"\b(?:(test_\w+)(?:\.py)?::)?(test_\w+)(…?)", document.read_text("utf-8"))
        for module, name, more in cited:
            names = defined.get(module, []) if module else everything | set(defined)
            found = [one for one in names if one == name or (more and one.startswith(name))]
            assert found, f"{document.name}: {module}::{name}{more}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("pipeline", set()),
        ("pipeline.batches", set()),
        ("pipeline.verify", set()),
        # TensorFlow imports Keras, and Keras imports OpenCV if it is installed.
        ("pipeline.dataset", {"tensorflow", "keras", "absl", "cv2", "tqdm"}),
        ("preprocess.layouts.challenge", set()),
        ("preprocess.inputs.exclusions", set()),
        ("preprocess.inputs.contours", set()),
        ("preprocess.stages.pairing", set()),
        ("preprocess.findings", set()),
        ("preprocess.config", set()),
        ("preprocess.geometry.grid", set()),
        ("preprocess.geometry.masks", {"cv2"}),
        ("preprocess.dicom.reader", {"pydicom", "tqdm"}),
        ("preprocess.__main__", {"absl"}),
        ("preprocess.run", {"cv2", "pydicom", "tqdm"}),
    ],
)
def test_a_module_loads_only_the_libraries_it_needs(module: str, allowed: set[str]) -> None:
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
