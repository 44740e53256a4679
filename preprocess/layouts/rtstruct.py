"""DICOM images and RT Structure Sets, in any folders."""

from __future__ import annotations

from preprocess.config import Config
from preprocess.engines import Engine
from preprocess.findings import FatalInputError, Finding
from preprocess.inputs.sources import Listing
from preprocess.model import Study


def recognize(source: Listing) -> str:
    """What of this layout is there; empty if nothing is."""
    return ""


def discover(source: Listing, config: Config, engine: Engine) -> tuple[list[Study], list[Finding]]:
    """The studies, sorted by id, and what is odd or wrong.

    Raises:
        FatalInputError: the layout is not complete.
    """
    raise FatalInputError(source.name, "the layout rtstruct is not read yet")
