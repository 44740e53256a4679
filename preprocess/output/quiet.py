"""Keeps messages of C++ libraries off standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def standard_error_kept() -> Iterator[None]:
    """Keeps what is written to standard error during a ``with`` block, and writes it there only when the block fails.

    TensorFlow's libraries write about the processor and GPUs to the file descriptor, before they read any setting.
    Python's ``contextlib.redirect_stderr`` does not reach that.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
