"""What a command shows on a terminal."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tqdm


def announce(*lines: str) -> None:
    """Prints what a command has done.

    The work is complete by then, so a closed pipe or a full disk is not an error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may have bytes that are not UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # Python flushes the buffer again at exit; let it write to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(total: int, what: str) -> tqdm.tqdm[None]:
    """A progress bar on a terminal. Elsewhere the log reports progress, and nothing is shown."""
    # Imported here, so that --help does not wait for it.
    import tqdm

    return tqdm.tqdm(total=total, desc=what, unit=f" {what}", disable=None, leave=False)
