"""Fills in the report's pages."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """A page with its values filled in. Everything is escaped, and the page runs no script but ours."""
    return str(_environment().get_template(template).render(values))


def number_of(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    >>> number_of(1, "study", "studies"), number_of(1200, "pair")
    ('1 study', '1,200 pairs')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def signed(value: float, decimals: int) -> str:
    """A number with its sign, which is a minus sign and not a hyphen.

    >>> signed(-0.25, 2), signed(-0.04, 1), signed(2, 1)
    ('−0.25', '+0.0', '+2.0')
    """
    # Adding 0 makes a negative zero positive.
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("preprocess.report", ""), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    folder = importlib.resources.files("preprocess.report")
    style, script = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals.update(style=Markup(style), script=Markup(script), script_digest=digest)
    environment.filters.update(number_of=number_of, signed=signed)
    return environment
