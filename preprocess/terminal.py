"""The last lines of a command."""

from __future__ import annotations

import os
import sys


def announce(*lines: str) -> None:
    """Prints what a command has done.

    It is done, even if nobody can read it: a closed pipe or a full disk at standard output is not an error.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # The lines are in the buffer still, which is flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
