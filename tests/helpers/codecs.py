"""A codec for RLE images that does not do its work, in the processes that decode."""

import ctypes
import functools
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pydicom
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import RLELossless

from preprocess.config import Config
from preprocess.engines.worker import Work
from preprocess.inputs.sources import Source

from .trees import image


def never_return(*_: object) -> None:
    """Waits in C code, which keeps the interpreter's lock. Only the clock of the file can end it.

    The clock is moved forward: so the test does not wait, and no other file is short of time on a slow machine.
    """
    remaining, _interval = signal.setitimer(signal.ITIMER_REAL, 0.01)
    if not remaining:
        os._exit(99)
    while True:
        ctypes.PyDLL(None).pause()


def kill(*_: object) -> None:
    """Ends the process as a codec does that writes to a wrong address."""
    os.kill(os.getpid(), signal.SIGSEGV)


def allocate(*_: object) -> bytearray:
    """Takes more memory than a worker may."""
    return bytearray(5 << 30)


def is_available(uid: str) -> bool:
    """pydicom calls it before it uses a codec."""
    return uid == RLELossless


def with_codec(codec: str, work: Work[Any, Any], source: Source, config: Config, item: Any) -> Any:
    """``work``, with a function of this module as the only codec for RLE."""
    decoder = get_decoder(RLELossless)
    for name in decoder.available_plugins:
        decoder.remove_plugin(name)
    decoder.add_plugin("test", (__name__, codec))
    return work(source, config, item)


def install(monkeypatch: pytest.MonkeyPatch, engine: type, codec: str) -> None:
    """Makes the workers of an engine use a codec."""
    original = engine.map  # type: ignore[attr-defined]

    def map_with_codec(self: Any, work: Work[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
        return original(self, functools.partial(with_codec, codec, work), items)

    monkeypatch.setattr(engine, "map", map_with_codec)


def compress(tree: pathlib.Path, number: int) -> None:
    """Compresses an image of the first study, for the codec."""
    path = image(tree, number)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
