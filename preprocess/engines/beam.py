"""Apache Beam: Dataflow, Flink, Spark, or processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import pickle
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

from preprocess.config import Config
from preprocess.engines import isolated
from preprocess.engines.worker import Work
from preprocess.findings import FatalInputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Beam:
    """Apache Beam, on the runner that its arguments name.

    Items and results are files that are renamed into place. So an item still has one result if the runner works on it
    twice, because a worker was lost or slow.

    Args:
        config: the settings; ``beam_args`` are passed to Beam.
        staging: a directory that all workers can access.

    Raises:
        FatalInputError: Beam is not installed.
    """

    def __init__(self, config: Config, staging: pathlib.Path) -> None:
        if importlib.util.find_spec("apache_beam") is None:
            raise FatalInputError(
                "--engine=beam", "Apache Beam is not installed; run pip install -r requirements-beam.txt"
            )
        self._config = config
        self._staging = staging

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        with tempfile.TemporaryDirectory(dir=self._staging) as name:
            directory = pathlib.Path(name)
            for number, item in enumerate(items):
                (directory / f"{number}.item").write_bytes(pickle.dumps(item))
            with beam.Pipeline(options=PipelineOptions(shlex.split(self._config.beam_args))) as pipeline:
                numbers = pipeline | beam.Create(range(len(items))) | beam.Reshuffle()
                _ = numbers | beam.Map(_work_on_file, directory, work, self._config)
            for number in range(len(items)):
                result = pickle.loads((directory / f"{number}.result").read_bytes())
                if isinstance(result, FatalInputError):
                    raise result
                yield result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # The DirectRunner may have worked in this process.
        isolated.end()


def _work_on_file(number: int, directory: pathlib.Path, work: Work[Any, Any], config: Config) -> None:
    """Reads an item from its file, works on it, and writes the result beside it."""
    item = pickle.loads((directory / f"{number}.item").read_bytes())
    result = isolated.isolated(work, config, item)
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        pickle.dump(result, file)
    os.replace(file.name, directory / f"{number}.result")
