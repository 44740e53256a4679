"""Reads a records directory: shuffled batches of images and masks of the left ventricle.

    from pipeline import DatasetInfo, iterate_batches, make_dataset

``iterate_batches`` needs only NumPy and google-crc32c; TensorFlow is imported at the first use of ``make_dataset``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batches import iterate_batches as iterate_batches
    from pipeline.dataset import make_dataset as make_dataset
    from pipeline.errors import RecordsError as RecordsError
    from pipeline.manifest import DatasetInfo as DatasetInfo

__version__ = "0.1.0"

_HOMES = {
    "DatasetInfo": "pipeline.manifest",
    "RecordsError": "pipeline.errors",
    "iterate_batches": "pipeline.batches",
    "make_dataset": "pipeline.dataset",
}

__all__ = ["DatasetInfo", "RecordsError", "iterate_batches", "make_dataset"]


def __getattr__(name: str) -> Any:
    """Imports a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
