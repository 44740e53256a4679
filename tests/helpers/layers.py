"""A directory in the lower layer of an overlay file system, as in a container."""

import os
import pathlib

import pytest

from pipeline import DatasetInfo, verify
from preprocess.findings import FatalInputError

from .synthetic import write_small


def overwrite_in_a_layer(merged: pathlib.Path) -> None:
    """The records there cannot be replaced; the new ones are kept."""
    with pytest.raises(FatalInputError, match="records: cannot be replaced on this file system") as raised:
        write_small(merged / "records", count=5, overwrite=True)
    assert DatasetInfo.load(merged / "records").cardinality == 4
    (kept,) = merged.glob("records-*")
    assert str(raised.value).endswith(f"; the new records are complete in {kept}")
    assert DatasetInfo.load(kept).cardinality == 5
    assert list(verify.faults(kept)) == []
    assert len(os.listdir(merged)) == 2
