"""Ctrl-C, SIGTERM and SIGHUP: they end the job, at once or after it has removed what it wrote.

An exception that is raised between any two steps cannot be cleaned up after reliably. So a job says where it may be
raised (:func:`interruptible`); elsewhere a signal waits, which takes a moment only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

MESSAGE = "preprocess: interrupted; nothing was published"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Whether there may be something to clean up, whether a signal is raised as an exception, and whether one came.
_held = False
_allowed = False
_came = False

# Where the line goes: standard error as it is at first, because it is redirected while TensorFlow is imported.
_standard_error = 2


def handle() -> None:
    """Handles the signals from here on: at first, each ends the process at once, with one line.

    Those that are ignored stay ignored, as nohup and a shell's background jobs need it.
    """
    global _standard_error
    with contextlib.suppress(OSError):
        _standard_error = os.dup(2)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def ignore() -> None:
    """Ignores the signals from here on: the job is over, and its exit status is settled."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN)


def hold() -> None:
    """From here on, there may be something to clean up: signals wait."""
    global _held
    _held = True


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt within a ``with`` block, also for a signal that came before; after it, signals wait."""
    global _allowed
    try:
        _allowed = True
        _raise_if_it_came()
        yield
        # Python swallows what is raised in a finalizer.
        _raise_if_it_came()
    finally:
        _allowed = False


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Blocks Ctrl-C in processes that are started within a ``with`` block: the job ends them itself.

    A terminal sends it to all processes, and Python prints a traceback where it comes while Python starts.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _raise_if_it_came() -> None:
    if _came:
        raise KeyboardInterrupt


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _came
    del number, frame
    if not _held:
        with contextlib.suppress(OSError):
            os.write(_standard_error, f"{MESSAGE}\n".encode("ascii"))
        os._exit(1)
    _came = True
    if _allowed:
        raise KeyboardInterrupt
