"""The documentation site: what `make docs` cannot notice by itself."""

import ast
import re

import pipeline

from .helpers import ROOT


def test_every_public_name_has_an_entry() -> None:
    text = (ROOT / "docs/api.rst").read_text("utf-8")
    entries = set(re.findall(r"^\.\. auto(?:function|class|exception):: ([\w.]+)", text, re.MULTILINE))
    classes = {
        node.name
        for node in ast.parse((ROOT / "pipeline/torch.py").read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    assert classes
    public = {f"pipeline.{name}" for name in pipeline.__all__} | {f"pipeline.torch.{name}" for name in classes}
    assert public | {"preprocess.config.Config", "preprocess.run.run"} <= entries
