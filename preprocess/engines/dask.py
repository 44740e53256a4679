"""A Dask cluster that runs already."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

from preprocess.config import Config
from preprocess.engines import isolated
from preprocess.engines.worker import Work
from preprocess.findings import FatalInputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Results are yielded in order. At most this many tasks are given to the cluster ahead of the next result.
_AHEAD = 2000


class Dask:
    """The cluster whose scheduler the settings name.

    Dask repeats a task whose worker is lost.

    Args:
        config: the settings; ``scheduler`` is the address.

    Raises:
        FatalInputError: Dask is not installed, or the scheduler does not answer.
    """

    def __init__(self, config: Config) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise FatalInputError(
                "--engine=dask", "Dask is not installed; run pip install '.[dask]' in the project's folder"
            )
        import distributed

        # Its errors are raised, too; without this it also prints their tracebacks.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self._config = config
        try:
            self._client = distributed.Client(config.scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            detail = f"cannot be reached ({_one_line(error)}); pass the address that dask scheduler prints"
            raise FatalInputError(f"--scheduler={config.scheduler}", detail) from error

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        futures: collections.deque[Any] = collections.deque()
        for item in items:
            futures.append(self._client.submit(isolated.isolated, work, self._config, item, pure=False))
            if len(futures) == _AHEAD:
                yield _result(futures.popleft())
        while futures:
            yield _result(futures.popleft())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # The cluster outlives the job. The processes of a worker that is lost end by themselves.
        if self._client.status == "running":
            with contextlib.suppress(OSError):
                self._client.run(isolated.end, on_error="ignore")
        self._client.close()


def _result(future: Any) -> Any:
    """The result of a task.

    Raises:
        FatalInputError: the task says so, or the cluster cannot work on it.
    """
    try:
        result = future.result()
    # Errors of the task itself are results; these are the cluster's.
    except Exception as error:
        detail = f"the cluster failed: {type(error).__name__}: {_one_line(error)}; its logs say more"
        raise FatalInputError("--engine=dask", detail) from error
    if isinstance(result, FatalInputError):
        raise result
    return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
