"""What a release states in several places is the same in all of them."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import __version__

from .helpers import ROOT
from .helpers.documents import pins_of


def test_changelog_and_citation_name_the_version_and_its_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(\S+)\](?: - (\S+))?$", changelog, re.MULTILINE)
    assert releases[:2] == [("Unreleased", ""), (__version__, releases[1][1])]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    assert re.findall(r"^date-released: (.*)$", citation, re.MULTILINE) == [releases[1][1]]


def test_the_citation_has_the_license_and_the_authors_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nlicense: {project['license']}\n" in citation
    for author in project["authors"]:
        assert f"\n  - name: {author['name']}\n" in citation


def test_the_list_of_dependencies_has_the_pinned_version_of_each_package() -> None:
    pins: dict[str, str] = {}
    for name in ("requirements-clients.txt", "requirements-beam.txt", "requirements.txt"):
        pins |= pins_of(ROOT / name)
    text = (ROOT / "docs" / "DEPENDENCIES.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| (\d\S*) \|", text, re.MULTILINE))
    assert rows == {name: pins.get(name) for name in rows}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for required in [project["dependencies"], *project["optional-dependencies"].values()]:
        assert {canonicalize_name(Requirement(text).name) for text in required} <= rows.keys()
    # A package that only Windows needs is not installed where the list is made.
    locked = (ROOT / "requirements.txt").read_text("utf-8")
    elsewhere = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==.*\bnt\b", locked, re.MULTILINE)}
    assert pins_of(ROOT / "requirements.txt").keys() - elsewhere <= rows.keys()
