"""Python functions that TensorFlow's threads call, and the end of the process."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# A thread of TensorFlow that is about to call Python does so within this time.
_IDLE_SECONDS = 0.2

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Steps on a dict are atomic, and each call has a key of its own.
_running: dict[object, None] = {}
_ended_at = {"last": -_IDLE_SECONDS}
_process_ends: list[bool] = []


def called_by_tensorflow(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Makes a function that ``tf.numpy_function`` may call until the process ends.

    An iterator reads ahead in threads. When the interpreter ends, it stops each thread that calls Python, and the
    iterator, which waits for that thread when it is deleted, would wait without end. So when the process ends, the
    function only raises an error, and the interpreter waits until no thread calls it.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        key = object()
        _running[key] = None
        try:
            if _process_ends:
                # The one error that TensorFlow does not print.
                raise StopIteration("the process ends")
            return function(*args, **kwargs)
        finally:
            _ended_at["last"] = time.monotonic()
            del _running[key]

    return call


@atexit.register
def _wait_for_calls() -> None:
    _process_ends.append(True)
    while _running or time.monotonic() - _ended_at["last"] < _IDLE_SECONDS:
        time.sleep(_IDLE_SECONDS / 10)
