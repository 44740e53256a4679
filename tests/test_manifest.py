import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from pipeline import DatasetInfo, RecordsError, schema

from .helpers.synthetic import Synthetic


@pytest.fixture
def directory(synthetic: Synthetic, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(synthetic(10), tmp_path / "records")


def test_the_manifest_describes_its_directory(phantom_records: pathlib.Path) -> None:
    info = DatasetInfo.load(phantom_records)
    assert info.cardinality == 36
    assert info.studies == ("PHANTOM001", "PHANTOM002", "PHANTOM003")
    assert info.image_shape == info.mask_shape == (256, 256, 1)
    assert (info.image_dtype, info.mask_dtype) == (np.dtype(np.int16), np.dtype(np.bool_))
    train = info.splits["train"]
    assert (train.count, train.studies, len(train.shards)) == (24, ("PHANTOM001", "PHANTOM003"), 3)
    assert train.steps_per_epoch() == train.steps_per_epoch(batch_size=8) == 3
    assert (train.steps_per_epoch(7), train.steps_per_epoch(7, drop_remainder=True)) == (4, 3)
    assert info.settings["contours"] == "i"


def test_a_manifest_that_is_read_is_dumped_unchanged(directory: pathlib.Path) -> None:
    info = DatasetInfo.read(directory)
    assert info.dump() == (directory / schema.MANIFEST_FILE).read_bytes()


def test_an_absent_directory_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecordsError, match=r"nowhere: cannot be opened as a directory.*write records with make"):
        DatasetInfo.load(tmp_path / "nowhere")
    with pytest.raises(RecordsError, match=r"manifest\.json: missing.*write one with make records"):
        DatasetInfo.load(tmp_path)


def test_a_split_that_is_not_there_names_those_that_are(phantom_records: pathlib.Path) -> None:
    with pytest.raises(RecordsError, match=r"there is no split 'tset'; the splits are: train, val"):
        DatasetInfo.load(phantom_records).split("tset")


def test_every_changed_bit_of_the_manifest_is_noticed(directory: pathlib.Path) -> None:
    path = directory / schema.MANIFEST_FILE
    text = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(text) * 8, 400, replace=False):
        changed = bytearray(text)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(RecordsError, match=r"manifest\.json"):
            DatasetInfo.read(directory)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"format": 3}', "[" * 100_000, '{"format": "cardiac-lv-records"}']
)
def test_a_malformed_manifest_is_refused(directory: pathlib.Path, text: str) -> None:
    (directory / schema.MANIFEST_FILE).write_text(text)
    with pytest.raises(RecordsError, match=r"manifest\.json"):
        DatasetInfo.load(directory)


def test_a_newer_format_asks_for_an_update(directory: pathlib.Path) -> None:
    path = directory / schema.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(RecordsError, match="schema_version is 99, at most 2 expected; update this package"):
        DatasetInfo.load(directory)


def test_a_missing_or_cut_shard_is_noticed_at_once(directory: pathlib.Path) -> None:
    shard = directory / DatasetInfo.read(directory).splits["train"].shards[1].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RecordsError, match=rf"{shard.name}: \d+ bytes, \d+ bytes expected"):
        DatasetInfo.load(directory)
    shard.unlink()
    with pytest.raises(RecordsError, match=rf"{shard.name}: missing"):
        DatasetInfo.load(directory)


def test_the_representation_of_a_manifest_fits_a_screen(phantom_records: pathlib.Path) -> None:
    info = DatasetInfo.load(phantom_records)
    many = dataclasses.replace(info, files={f"{number}.idx": next(iter(info.files.values())) for number in range(9999)})
    assert len(repr(many)) < 400
    for part in ("train: 24 of 2 studies", "image_shape=(256, 256, 1)", "image_dtype=int16", "9999 other files"):
        assert part in repr(many)


def test_a_manifest_names_the_classes_of_label_maps(directory: pathlib.Path) -> None:
    info = DatasetInfo.load(directory)
    assert info.mask_classes == ()
    assert info.mask_dtype == np.bool_
    labels = dataclasses.replace(info, mask_classes=schema.LABEL_CLASSES)
    (directory / "manifest.json").write_bytes(labels.dump())
    read = DatasetInfo.load(directory)
    assert read == labels
    assert read.mask_dtype == np.uint8
    fields = json.loads(labels.dump())
    assert fields["mask"] == {"shape": [6, 5, 1], "dtype": "uint8", "classes": ["outside", "blood pool", "myocardium"]}
    # Readers of version 1 refuse what they would misread; they read everything else.
    assert fields["schema_version"] == 2
    assert json.loads(info.dump())["schema_version"] == 1


@pytest.mark.parametrize("classes", [["a"] * 257, [1, 2], "ab" * 200])
def test_classes_that_are_not_names_are_refused(directory: pathlib.Path, classes: Any) -> None:
    wrong = dataclasses.replace(DatasetInfo.load(directory), mask_classes=classes)
    (directory / "manifest.json").write_bytes(wrong.dump())
    with pytest.raises(RecordsError, match="mask classes are not at most 256 names"):
        DatasetInfo.load(directory)
