"""The last lines of a command."""

from __future__ import annotations

import os
import sys


def announce(*lines: str) -> None:
    """Prints what a command has done.

    The work is done, even if the lines cannot be written: a closed pipe or a full disk is not an error then.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # The lines are still in the buffer, which is flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
