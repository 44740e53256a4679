"""The documentation site, which `make docs` builds with Sphinx from the documents as they are."""

import pathlib
import re
from typing import Any

import docutils.nodes
import sphinx.addnodes
import sphinx.application

import pipeline

ROOT = pathlib.Path(__file__).parents[1]

project = "Cardiac MRI records"
version = release = pipeline.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.rst"]
exclude_patterns = [".git", ".venv", "build"]  # not to be searched

# A link to a document, a heading or a file that is not there, and a name that autodoc does not know, fail the build.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!(pipeline|preprocess)\.).*|pipeline\.(directory|remote)\.\w+Directory")]
myst_heading_anchors = 4

autodoc_mock_imports = ["torch"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("npt.ArrayLike", "npt.DTypeLike", "DataDir")}
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_use_rtype = False

# -- stays two hyphens, and code without a language is text.
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]

NAVIGATION = """

```{toctree}
:hidden:
:glob:

Home <self>
Tutorial <docs/TUTORIAL>
Building, and your own data <BUILD>
The audit <docs/AUDIT>
Records: format and reading <docs/FORMAT>
Python API <docs/api>
Scale <docs/SCALE>
Performance <docs/PERFORMANCE>
Training <docs/TRAINING>
Reliability <docs/RELIABILITY>
docs/*
Contributing <CONTRIBUTING>
Changelog <CHANGELOG>
```
"""


def add_navigation(app: sphinx.application.Sphinx, name: str, source: list[str]) -> None:
    """Adds the list of pages to the home page: in README.md itself it would be visible as code."""
    if name == root_doc:
        source[0] += NAVIGATION


def show_folders(app: sphinx.application.Sphinx, document: docutils.nodes.document) -> None:
    """Makes a link to a folder of the project text, because the folder has no page."""
    for link in list(document.findall(sphinx.addnodes.pending_xref)):
        if link["reftype"] == "myst" and (ROOT / link["refdoc"]).parent.joinpath(link["reftarget"]).is_dir():
            link.replace_self(link.children)


def name_aliases(*event: Any) -> tuple[str, str] | None:
    """Sphinx shows an alias that is part of a union as ``TypeAliasForwardRef('name')``."""
    *_, arguments, result = event
    return arguments and (re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", arguments), result)


def setup(app: sphinx.application.Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", show_folders)
    app.connect("autodoc-process-signature", name_aliases)
