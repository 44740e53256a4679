"""What a command prints at its end."""

from __future__ import annotations

import os
import sys


def announce(*lines: str) -> None:
    """Prints what a command has done.

    The work is complete by then, so a closed pipe or a full disk is not an error.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # Python flushes the buffer again at exit; let it write to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
