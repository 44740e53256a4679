import itertools
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline import DatasetInfo, schema, verify
from preprocess.output import writer
from preprocess.output.destinations import Directory
from preprocess.output.writer import Record, RecordSpec

from .helpers.synthetic import (
    Synthetic,
    synthetic_arrays,
    synthetic_pair,
    write_records,
    write_small,
    write_synthetic,
)
from .helpers.trees import contents


def test_tensorflow_reads_every_feature(tmp_path: pathlib.Path) -> None:
    image, mask = np.arange(30, dtype=np.uint16).reshape(6, 5), np.eye(6, 5, dtype=bool)
    write_records(tmp_path, [Record(synthetic_pair(42), image, mask)], 1, split="val")
    path = tmp_path / "lv-val.tfrecord-00000-of-00001"
    (data,) = tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()
    features = tf.train.Example.FromString(data).features.feature
    assert features["image"].bytes_list.value[:] == [image.astype("<u2").tobytes()]
    assert features["mask"].bytes_list.value[:] == [mask.astype(np.uint8).tobytes()]
    assert features["meta/study_id"].bytes_list.value[:] == [b"A"]
    assert features["meta/contour_id"].bytes_list.value[:] == [b"B"]
    assert features["meta/instance_number"].int64_list.value[:] == [42]
    assert features["meta/slice_index"].int64_list.value[:] == [1]
    assert features["meta/phase_index"].int64_list.value[:] == [2]
    assert features["meta/pixel_spacing_mm"].float_list.value[:] == [1.5, 1.25]
    assert features["meta/slice_location_mm"].float_list.value[:] == [3.5]
    assert len(features) == 9


def test_a_missing_instance_number_is_minus_one(tmp_path: pathlib.Path) -> None:
    images, masks = synthetic_arrays(1)
    write_records(tmp_path, [Record(synthetic_pair(1, instance_number=None), images[0], masks[0])], 1)
    path = tmp_path / "lv-train.tfrecord-00000-of-00001"
    (data,) = tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()
    assert tf.train.Example.FromString(data).features.feature["meta/instance_number"].int64_list.value[:] == [-1]


def test_the_index_is_that_of_the_tfrecord_package(synthetic: Synthetic) -> None:
    """A line ``offset size`` for each frame, as its tfrecord2idx prints."""
    paths = list(synthetic(10).glob("*-of-00003"))
    assert len(paths) == 3
    for path in paths:
        content, lines, offset = path.read_bytes(), [], 0
        while offset < len(content):
            size = int.from_bytes(content[offset : offset + 8], "little") + 16
            lines.append(f"{offset} {size}\n")
            offset += size
        assert path.with_name(path.name + ".idx").read_text() == "".join(lines)


@pytest.mark.parametrize(
    ("count", "asked", "counts"),
    [(10, 1, [10]), (10, 3, [3, 3, 4]), (10, 10, [1] * 10), (4, 7, [1] * 4), (10, None, [10])],
)
def test_records_are_spread_evenly_over_shards(
    tmp_path: pathlib.Path, count: int, asked: int | None, counts: list[int]
) -> None:
    write_synthetic(tmp_path / "records", *synthetic_arrays(count), num_shards=asked)
    info = DatasetInfo.load(tmp_path / "records")
    assert sorted(shard.count for shard in info.splits["train"].shards) == counts
    assert list(verify.faults(tmp_path / "records")) == []


def test_shards_are_cut_by_size(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 6 * 5 * 3 * 4)
    write_synthetic(tmp_path / "records", *synthetic_arrays(10), num_shards=None)
    assert [shard.count for shard in DatasetInfo.load(tmp_path / "records").splits["train"].shards] == [3, 3, 4]


def test_a_shard_whose_records_all_failed_is_not_written(tmp_path: pathlib.Path) -> None:
    """The shards of a split are numbered without it."""
    images, masks = synthetic_arrays(6)
    records = [Record(*of) for of in zip(map(synthetic_pair, range(6)), images, masks, strict=True)]
    spec = RecordSpec((6, 5), images.dtype)
    directory = tmp_path / "records"
    directory.mkdir()
    destination = Directory.at(directory)
    planned = [records[:2], [], records[2:]]
    names = [schema.shard_name("train", index, 3) for index in range(3)]
    shards = [writer.write_shard(destination, name, "train", made) for name, made in zip(names, planned, strict=True)]
    assert shards[1] is None
    info = writer.complete(destination, spec, filter(None, shards), {"train": ["A"]}, {}, {}, {})
    destination.write(schema.MANIFEST_FILE, info.dump())
    assert [shard.count for shard in DatasetInfo.load(directory).splits["train"].shards] == [2, 4]
    assert list(verify.faults(directory)) == []
    assert list(tmp_path.iterdir()) == [directory]


def test_the_same_records_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("one", "other"):
        write_small(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_a_shard_is_named_by_split_number_and_count() -> None:
    assert [schema.shard_name("train", *of) for of in itertools.product((0, 99_998), (99_999,))] == [
        "lv-train.tfrecord-00000-of-99999",
        "lv-train.tfrecord-99998-of-99999",
    ]
