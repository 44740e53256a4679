"""Runs the commands behind the figures of the documents again, and writes what they print in place.

    python -m benchmarks.figures --data_dir=final_data
    python -m benchmarks.figures --data_dir=final_data docs/SCALE.md

A figure is a block of a document: the command, what it printed as Markdown, and when and where it ran.

    <!-- figure: python -m benchmarks.bench_masks --data_dir=DATA -->
    | method | mean area bias |
    ...
    <!-- end of figure -->

Each block is written as soon as its command has ended, so an interrupted run keeps what it has measured. A command that
fails leaves its block as it was and ends the run. All commands together take hours; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

from pipeline import __version__

_ROOT = pathlib.Path(__file__).resolve().parents[1]

_BLOCK = re.compile(r"<!-- figure: (?P<command>[^\n]+) -->\n(?P<content>.*?)<!-- end of figure -->", re.DOTALL)


class Figure(NamedTuple):
    """A block of a document.

    Attributes:
        document: the Markdown file.
        command: as the document has it; ``DATA`` stands for the folder of the real studies.
    """

    document: pathlib.Path
    command: str


def documents() -> list[pathlib.Path]:
    """The Markdown files of the project that have figures."""
    every = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md")])
    return [path for path in every if _BLOCK.search(path.read_text("utf-8"))]


def figures(document: pathlib.Path) -> list[Figure]:
    """The figures of a document, in its order."""
    return [Figure(document, match["command"]) for match in _BLOCK.finditer(document.read_text("utf-8"))]


def replace(text: str, command: str, content: str) -> str:
    """A document's text with other content in the block of a command."""

    def block(match: re.Match[str]) -> str:
        if match["command"] != command:
            return match[0]
        return f"<!-- figure: {command} -->\n{content}\n<!-- end of figure -->"

    return _BLOCK.sub(block, text)


def run(figure: Figure, data_dir: pathlib.Path) -> str:
    """Runs a figure's command; returns what it prints, and a line that says what ran when and where.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    program, *arguments = shlex.split(figure.command)
    if program != "python":
        raise ValueError(f"{figure.document}: {figure.command!r} does not start with python")
    arguments = [argument.replace("DATA", os.fspath(data_dir.resolve())) for argument in arguments]
    printed = subprocess.run([sys.executable, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    caption = f"*`{figure.command}`, {datetime.date.today():%Y-%m-%d}, version {__version__}, {machine()}.*"
    return f"\n{printed.stdout.strip()}\n\n{caption}\n"


def machine() -> str:
    """The kind of this machine, such as ``2 cores of AMD EPYC, 23 GB, Linux 6.18, Python 3.11``."""
    information = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.+)$", information, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    processor = f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()}"
    return f"{processor}, {memory:.0f} GB, {system}, Python {platform.python_version()}"


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="folder of the four real studies")
    parser.add_argument("documents", type=pathlib.Path, nargs="*", help="only these (default: all that have figures)")
    flags = parser.parse_args()
    every = [figure for path in flags.documents or documents() for figure in figures(path.resolve())]
    for number, figure in enumerate(every, 1):
        where = f"[{number}/{len(every)}] {os.path.relpath(figure.document)}"
        print(f"{where}: {figure.command}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            content = run(figure, flags.data_dir)
        except subprocess.CalledProcessError as error:
            print(f"figures: the command failed with exit status {error.returncode}", file=sys.stderr)
            return 1
        # Read again: a command may take an hour, in which somebody may edit the document.
        text = replace(figure.document.read_text("utf-8"), figure.command, content)
        figure.document.write_text(text, "utf-8")
        print(f"{where}: written after {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
