"""Interrupts a process at a step of its work, so that no test depends on timing.

A step is a call by which Python opens, makes, lists, renames or removes something in a directory.
"""

import os
import pathlib
import sys
from collections.abc import Callable


def before_step(number: int, directory: pathlib.Path, interrupt: Callable[[], object]) -> None:
    """Calls a function just before this process takes a step in a directory, given by its number from 0."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        path = next(iter(arguments), None)
        if isinstance(path, str | os.PathLike) and directory in (pathlib.Path(path), *pathlib.Path(path).parents):
            count += 1
            if count == number + 1:
                interrupt()

    sys.addaudithook(hook)
