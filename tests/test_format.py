"""docs/FORMAT.md: its tables describe the records, and its programs read them."""

import collections
import contextlib
import importlib.util
import json
import math
import pathlib
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline import DatasetInfo, iterate_batches, schema
from pipeline.frames import FRAME_BYTES, LENGTH_BYTES, scan
from pipeline.records import Layout

from .helpers import ROOT
from .helpers.documents import blocks, environment
from .helpers.tables import read_table

TEXT = (ROOT / "docs/FORMAT.md").read_text("utf-8")
PROGRAMS = {block.heading: block.content for block in blocks("docs/FORMAT.md") if block.language == "python"}
RECORDS = PROGRAMS.pop("Records")
LIBRARIES = {
    "With this package": None,
    "TensorFlow alone": None,
    "TensorFlow Datasets": "tensorflow_datasets",
    "The tfrecord package": "tfrecord",
    "PyTorch with this package": "torch",
    "PyTorch, samples in place of batches": "torch",
    "grain": "grain",
    "grain's DataLoader": "grain",
    "MONAI": "monai",
    "Hugging Face datasets": "datasets",
    "PyTorch without this package": "torch",
    "NVIDIA DALI": "nvidia.dali",
}

# Appended to a program: prints what it reads, a line for each record.
SHOW = """
import zlib
import numpy as np
for images, masks in batches:
    for pair in zip(np.asarray(images), np.asarray(masks), strict=True):
        print(*(f"{array.shape} {array.dtype} {zlib.crc32(array.tobytes())}" for array in pair))
"""


def installed(library: str) -> bool:
    """Without importing it: some of these libraries conflict with each other."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(library) is not None
    return False


def test_every_program_is_run() -> None:
    assert set(PROGRAMS) == set(LIBRARIES)
    assert len(PROGRAMS) + len([RECORDS]) == TEXT.count("```python\n")


@pytest.mark.parametrize("of", ["phantom_records", "phantom_label_maps"])
@pytest.mark.parametrize(
    "title",
    [pytest.param(title, marks=[pytest.mark.clients] if library else []) for title, library in LIBRARIES.items()],
)
def test_a_program_reads_what_iterate_batches_reads(
    title: str, of: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    records = request.getfixturevalue(of)
    library = LIBRARIES[title]
    if library and not installed(library):
        pytest.skip(f"{library} is not installed")
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[title] + SHOW, "utf-8")
    (tmp_path / "records").symlink_to(records)
    result = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=environment(tmp_path / "bin"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    image_dtype = "float32" if "Records(" in PROGRAMS[title] else None
    expected = [
        " ".join(f"{array.shape} {array.dtype} {zlib.crc32(array.tobytes())}" for array in pair)
        for batch in iterate_batches(records, shuffle=False, image_dtype=image_dtype)
        for pair in zip(*batch, strict=True)
    ]
    assert result.stdout.splitlines() == expected


def test_the_program_of_records_selects_what_its_comments_say(
    phantom_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "records").symlink_to(phantom_records)
    show = """
import json
left_out = records.where(~held_out), records.where(held_out)
print(json.dumps([[len(view), view.studies] for view in (*left_out, train, val, oversampled)]))
"""
    result = subprocess.run(
        [sys.executable, "-c", RECORDS + show],
        cwd=tmp_path,
        env=environment(tmp_path / "bin"),
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [row for row in read_table(phantom_records / "pairs.csv") if row["written"] == "1"]
    counts = collections.Counter(row["study_id"] for row in rows)
    first_slices = collections.Counter(row["study_id"] for row in rows if row["slice_index"] == "0")
    assert min(counts) == min(DatasetInfo.load(phantom_records).studies)
    others, first, train, val, oversampled = ((count, set(studies)) for count, studies in json.loads(result.stdout))
    assert first == (counts[min(counts)], {min(counts)})
    assert others == (counts.total() - first[0], set(counts) - first[1])
    assert train[1] | val[1] == set(counts)
    for fold in (train, val):
        assert fold[0] == sum(counts[study] for study in fold[1]) > 0
    assert oversampled == (train[0] + sum(first_slices[study] for study in train[1]), train[1])
    assert oversampled[0] > train[0]


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert section
    rows = [line.strip("|").split("|") for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_features_are_those_of_a_record(phantom_records: pathlib.Path) -> None:
    shard = DatasetInfo.load(phantom_records).splits["train"].shards[0]
    _, data = next(scan(phantom_records / shard.name))
    found = {}
    for name, feature in tf.train.Example.FromString(data).features.feature.items():
        kind = feature.WhichOneof("kind")
        count = len(getattr(feature, kind).value)
        found[f"`{name}`"] = kind.removesuffix("_list") + (f" × {count}" if count > 1 else "")
    assert {name: kind for name, kind, _ in table("Features of a record")} == found
    assert found == {
        f"`{feature.name}`": feature.kind + (f" × {math.prod(feature.shape)}" if feature.shape else "")
        for feature in schema.FEATURES
    }


def test_columns_are_those_of_the_table(phantom_records: pathlib.Path) -> None:
    rows = table("Records")
    assert rows == [
        [
            f"`{column.name}`",
            column.dtype + (f" × {math.prod(column.shape)}" if column.shape else ""),
            str(column.missing or "empty").replace("nan", "NaN"),
            column.meaning,
        ]
        for column in schema.COLUMNS
    ]
    found = np.load(phantom_records / "records.npy").dtype
    assert [f"`{name}`" for name in found.names or ()] == [name for name, *_ in rows]
    for (_, kind, *_), name in zip(rows, found.names or (), strict=True):
        dtype, _, length = kind.partition(" × ")
        assert found[name].shape == ((int(length),) if length else ())
        assert found[name].base.kind == "U" if dtype == "str" else found[name].base == dtype


def test_bytes_lie_where_the_table_has_them(phantom_records: pathlib.Path) -> None:
    info = DatasetInfo.load(phantom_records)
    layout = Layout.of(info)
    shard = info.splits["train"].shards[0]
    offset, data = next(scan(phantom_records / shard.name))
    head, gap = len(layout.head(len(data))), len(layout.gap)
    sizes = [8, 4, head, layout.image_bytes, gap, layout.mask_bytes]
    rows = table("Bytes of a record")
    assert [int(size) for _, size, _ in rows[:-2]] == sizes
    assert [int(first) for first, _, _ in rows[:-1]] == np.cumsum([0, *sizes]).tolist()
    assert sum(sizes[:2]) == LENGTH_BYTES
    # The index shown is the start of a real one.
    shown = re.search(r"^```\n([0-9 \n]+)^```", TEXT, re.MULTILINE)
    assert shown
    assert (phantom_records / f"{shard.name}.idx").read_text().startswith(shown[1])
    assert shown[1].splitlines()[0] == f"{offset} {len(data) + FRAME_BYTES}"


def test_every_file_is_named(phantom_records: pathlib.Path) -> None:
    named = re.findall(r"`([^`]+)`", " ".join(row[0] for row in table("Files")))
    patterns = {re.sub(r"train|\d{5}", "*", name) for name in named}
    found = {re.sub(r"train|val|\d{5}", "*", path.name) for path in phantom_records.iterdir()}
    assert patterns == found
