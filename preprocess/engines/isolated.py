"""Work in a process of its own, for the workers of a cluster.

A file that ends its process would end the cluster's worker, and the cluster would give it to the next one. Here it ends
a process that the worker started, and is refused as on a single machine.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from typing import TypeVar

from preprocess.config import Config
from preprocess.engines.local import Local
from preprocess.engines.worker import Work
from preprocess.findings import FatalInputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# What waits for the next item, by its settings. A cluster's worker may run several items at once, in threads: each
# takes one or starts one, and puts it back. So there are never more than threads.
_waiting: dict[Config, list[Local]] = {}


def isolated(work: Work[_Item, _Result], config: Config, item: _Item) -> _Result | FatalInputError:
    """``work(source, config, item)``, called in another process; a FatalInputError is returned, not raised.

    A cluster would repeat a task that raises an error, and report it with a traceback.
    """
    # Dask starts its workers as daemons, which multiprocessing does not allow to start processes. Ours may be started,
    # because they end by themselves when the worker ends.
    multiprocessing.current_process().daemon = False
    with contextlib.ExitStack() as on_error:
        try:
            local = _waiting.setdefault(config, []).pop()
        except IndexError:
            local = Local(config)
        on_error.callback(local.close)
        try:
            (result,) = local.map(work, [item])
        except FatalInputError as error:
            return error
        on_error.pop_all()
    _waiting.setdefault(config, []).append(local)
    return result


def end() -> None:
    """Ends the processes that wait for the next item."""
    while _waiting:
        _, every = _waiting.popitem()
        for local in every:
            local.close()
