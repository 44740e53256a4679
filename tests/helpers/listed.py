"""A data set in memory, and an engine that works in this process."""

import dataclasses
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from preprocess.config import Config
from preprocess.engines.worker import Work
from preprocess.findings import Finding
from preprocess.inputs.sources import Source

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A source of some files, listed in the order given."""

    files: Mapping[str, bytes]
    name: str = "data"
    findings: Sequence[Finding] = ()

    @property
    def paths(self) -> Sequence[str]:
        return list(self.files)

    def open(self, path: str) -> io.BytesIO:
        return io.BytesIO(self.files[path])


class Inline:
    """Does the work in this process."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._config = Config(pathlib.Path("data"), pathlib.Path("unused"), layout="sunnybrook")

    def map(self, work: Work[_Item, _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        for item in items:
            yield work(self._source, self._config, item)
