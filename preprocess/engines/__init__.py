"""Where the work runs: on this machine's cores, on Apache Beam, or on a Dask cluster.

An engine calls a function ``work(source, config, item)`` for each item, in other processes, and yields the results in
the order of the items. So the output depends on the items alone, not on the engine or its number of processes.

Every engine works in processes of :class:`Local`. So a file that ends its process, or is read for too long, is refused
on every engine in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from preprocess.config import Config
from preprocess.engines.beam import Beam
from preprocess.engines.dask import Dask
from preprocess.engines.local import Local
from preprocess.engines.worker import Work
from preprocess.output.destinations import Destination

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Engine(Protocol):
    """Where the work runs."""

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        """Yields ``work(source, config, item)`` of each item, in order."""


@contextlib.contextmanager
def engine(config: Config, staging: Destination) -> Iterator[Engine]:
    """The engine that the settings name, for a ``with`` block.

    Args:
        config: the settings.
        staging: where Beam may exchange files with its workers.

    Raises:
        FatalInputError: its library is not installed, or its cluster does not answer.
    """
    if config.engine == "beam":
        with Beam(config, staging) as beam:
            yield beam
    elif config.engine == "dask":
        with Dask(config) as dask:
            yield dask
    else:
        with Local(config) as local:
            yield local
