"""Functions for the engines to call; the programs that tests run import them, too."""

import os
import resource
import time

from preprocess.config import Config
from preprocess.inputs.sources import Source


def slow_first(source: Source, config: Config, item: int) -> tuple[int, int]:
    if item == 0:
        time.sleep(0.3)
    return item, os.getpid()


def inverse(source: Source, config: Config, item: int) -> float:
    return 1 / item


def limits(source: Source, config: Config, item: int) -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_AS)
