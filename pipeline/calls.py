"""Python functions that TensorFlow's threads call, and the end of the process."""

from __future__ import annotations

import atexit
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# A thread of TensorFlow that is going to call Python again does so within this time.
_IDLE_SECONDS = 0.2

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Calls:
    """Counts the calls that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._last_end = -math.inf
        self.refused = False

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            self._last_end = time.monotonic()

    def end(self) -> None:
        """Refuses further calls, and waits until no thread makes one."""
        self.refused = True
        while self._running or time.monotonic() - self._last_end < _IDLE_SECONDS:
            time.sleep(_IDLE_SECONDS / 10)


_CALLS = _Calls()
atexit.register(_CALLS.end)


def called_by_tensorflow(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Makes a function that ``tf.numpy_function`` may call until the process ends.

    The threads of an iterator read ahead. Once the interpreter ends, it stops each thread that calls Python, and the
    iterator, which waits for its threads when it is deleted, would wait without end. So when the process ends, the
    function raises an error at once, and the interpreter ends after the threads have come to rest.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _CALLS:
            if _CALLS.refused:
                # TensorFlow prints every other error.
                raise StopIteration("the process ends")
            return function(*args, **kwargs)

    return call
