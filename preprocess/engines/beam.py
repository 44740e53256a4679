"""Apache Beam: Dataflow, Flink, Spark, or processes of this machine."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import pickle
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

from preprocess.config import Config
from preprocess.engines import isolated
from preprocess.engines.worker import Work
from preprocess.findings import FatalInputError
from preprocess.output.destinations import Destination

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Files that are written or read at the same time, and results that are read ahead of their use.
_AT_ONCE, _AHEAD = 16, 256


class Beam:
    """Apache Beam, on the runner that its arguments name.

    Items and results are files, each of which appears complete. So an item still has one result if the runner works on
    it twice, because a worker was lost or slow.

    Args:
        config: the settings; ``beam_args`` are passed to Beam.
        staging: where these files are put; all workers can access it.

    Raises:
        FatalInputError: Beam is not installed.
    """

    def __init__(self, config: Config, staging: Destination) -> None:
        if importlib.util.find_spec("apache_beam") is None:
            raise FatalInputError(
                "--engine=beam", "Apache Beam is not installed; run pip install -r requirements-beam.txt"
            )
        self._config = config
        self._staging = staging

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        with self._staging.temporary() as folder:
            for _ in _each(lambda number: folder.write(f"{number}.item", pickle.dumps(items[number])), len(items)):
                pass
            with beam.Pipeline(options=PipelineOptions(shlex.split(self._config.beam_args))) as pipeline:
                numbers = pipeline | beam.Create(range(len(items))) | beam.Reshuffle()
                _ = numbers | beam.Map(_work_on_file, folder, work, self._config)
            for content in _each(lambda number: folder.read(f"{number}.result"), len(items)):
                result = pickle.loads(content)
                if isinstance(result, FatalInputError):
                    raise result
                yield result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # The DirectRunner may have worked in this process.
        isolated.end()


def _each(function: Callable[[int], _Result], count: int) -> Iterator[_Result]:
    """The results of a function for the numbers below ``count``, in order. Some calls run at once: a store is slow."""
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        for first in range(0, count, _AHEAD):
            yield from threads.map(function, range(first, min(first + _AHEAD, count)))


def _work_on_file(number: int, folder: Destination, work: Work[Any, Any], config: Config) -> None:
    """Reads an item from its file, works on it, and writes the result beside it."""
    item = pickle.loads(folder.read(f"{number}.item"))
    folder.write(f"{number}.result", pickle.dumps(isolated.isolated(work, config, item)))
