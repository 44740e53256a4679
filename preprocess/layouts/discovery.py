"""A data set → studies, in whatever layout it is."""

from __future__ import annotations

import logging
from typing import NamedTuple

from preprocess.config import Config, Layout
from preprocess.engines import Engine
from preprocess.findings import DATA_DIR, FatalInputError, Finding
from preprocess.inputs.sources import Listing, unread_archives
from preprocess.layouts import challenge, rtstruct, sunnybrook
from preprocess.model import Study

_log = logging.getLogger(__name__)

_LAYOUTS = {"challenge": challenge, "sunnybrook": sunnybrook, "rtstruct": rtstruct}

_EXPECTED = (
    "challenge (dicoms/, contourfiles/ and link.csv), sunnybrook (…/contours-manual/IRCCI-expert/ and folders of "
    "images) or rtstruct (DICOM images and RT Structure Sets)"
)


class Chosen(NamedTuple):
    """The layout of a data set.

    Attributes:
        layout: its name.
        why: what of it was found; empty when the user named it.
    """

    layout: Layout
    why: str


def choose(source: Listing, config: Config) -> Chosen:
    """The layout that a data set has, which is logged, or that the user named.

    Raises:
        FatalInputError: none fits, or two do.
    """
    if config.layout != "auto":
        return Chosen(config.layout, "")
    fitting = [Chosen(name, why) for name in ("challenge", "sunnybrook") if (why := _LAYOUTS[name].recognize(source))]
    # Structure sets are recognized by their content, so files are opened only if no names fit.
    if not fitting and (why := rtstruct.recognize(source)):
        fitting = [Chosen("rtstruct", why)]
    if len(fitting) == 1:
        _log.info("%s: layout %s (%s)", source.name, *fitting[0])
        return fitting[0]
    if fitting:
        found = " and ".join(f"{layout} ({why})" for layout, why in fitting)
        detail = f"could have two layouts, {found}; pass the one to read as --layout, or another folder as {DATA_DIR}"
    else:
        unlisted = "".join(f"; {finding.path} {finding.detail}" for finding in source.findings[:1])
        unlisted += unread_archives(source)
        detail = f"has no known layout; one of these is expected, at any depth of {DATA_DIR}: {_EXPECTED}{unlisted}"
    raise FatalInputError(source.name, detail)


def discover(source: Listing, config: Config, engine: Engine) -> tuple[list[Study], list[Finding]]:
    """The studies of a data set, sorted by id, and what is odd or wrong.

    Args:
        source: the data set.
        config: the settings; ``layout`` is not ``auto``.
        engine: opens and parses files, where the layout cannot be read from their names.

    Raises:
        FatalInputError: the layout is not complete.
    """
    if config.layout == "sunnybrook":
        return sunnybrook.discover(source, config, engine)
    if config.layout == "rtstruct":
        return rtstruct.discover(source, config, engine)
    return challenge.discover(source)
