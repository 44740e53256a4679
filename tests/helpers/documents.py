"""The code blocks of the documents, the environment they run in, and the versions that requirements pin."""

import os
import pathlib
import re
import sys
from typing import NamedTuple

from . import ROOT


class Block(NamedTuple):
    """A fenced block of a document."""

    heading: str
    language: str
    content: str


def blocks(name: str) -> list[Block]:
    """The fenced blocks of a document, in order, each with the heading above it."""
    found = []
    heading = ""
    pattern = r"^#+ (?P<heading>[^\n]*)$|^```(?P<language>\w*)\n(?P<content>.*?)^```$"
    for match in re.finditer(pattern, (ROOT / name).read_text("utf-8"), re.DOTALL | re.MULTILINE):
        if match["heading"] is not None:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["language"], match["content"]))
    return found


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Environment variables by which ``python``, a script in a folder, runs this interpreter and finds this project."""
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def pins_of(path: pathlib.Path) -> dict[str, str]:
    """The versions that a file of requirements pins, by the canonical names of the packages."""
    found = re.findall(r"^([\w.-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in found}
