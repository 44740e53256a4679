"""Ctrl-C, SIGTERM and SIGHUP end the job, at once or after it has removed its files.

No code can clean up reliably after an exception that may come between any two steps. So a job marks the blocks where
a signal is raised as an exception (:func:`interruptible`). Outside them a signal waits, for a moment only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

MESSAGE = "preprocess: interrupted; nothing was published"


class Interrupted(KeyboardInterrupt):
    """A signal ended the job.

    A class of its own, because Python sends itself SIGINT at its end, whatever the exit status should be, once a
    plain KeyboardInterrupt has left an ``exec`` of text, even if it was caught; multiprocessing runs such text.
    """


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Whether signals wait because there may be something to clean up, whether a signal is raised as an exception, and
# whether one has come.
_held = False
_allowed = False
_came = False


def handle() -> None:
    """Handles the signals. Until :func:`hold` is called, each ends the process at once, with one line.

    A signal that is ignored stays ignored, which nohup and a shell's background jobs rely on.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def ignore() -> None:
    """Ignores the signals: the job is over, and its exit status is fixed."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN)


def hold() -> None:
    """Makes signals wait, because there may be something to clean up."""
    global _held
    _held = True


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises Interrupted within a ``with`` block, also for a signal that waited; after it, signals wait."""
    global _allowed
    try:
        _allowed = True
        _raise_if_it_came()
        yield
        # An exception that was raised in a finalizer is lost: raise it here.
        _raise_if_it_came()
    finally:
        _allowed = False


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Blocks Ctrl-C in processes that are started within a ``with`` block: the job ends them itself.

    A terminal sends SIGINT to all its processes, and Python prints a traceback if it arrives while Python starts.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _raise_if_it_came() -> None:
    if _came:
        raise Interrupted


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _came
    del number, frame
    if not _held:
        with contextlib.suppress(OSError):
            os.write(2, f"{MESSAGE}\n".encode("ascii"))
        os._exit(1)
    _came = True
    if _allowed:
        raise Interrupted
