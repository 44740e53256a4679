"""The documents: what they link to and name is there."""

import pathlib
import re

import pytest

from .helpers import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PLAIN = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def prose(document: pathlib.Path) -> str:
    """A document without its fenced blocks."""
    return PLAIN.sub("", document.read_text("utf-8"))


def anchors(document: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_is_named_exists(document: pathlib.Path) -> None:
    for module in re.findall(r"\b(?:preprocess|pipeline|benchmarks|examples)(?:\.[a-z_]\w*)+", prose(document)):
        *packages, last = module.split(".")
        folder = ROOT.joinpath(*packages)
        # A function or a class may follow the module.
        assert any([(folder / f"{last}.py").exists(), (folder / last).is_dir(), folder.with_suffix(".py").exists()]), (
            module
        )
