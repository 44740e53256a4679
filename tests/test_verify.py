import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from pipeline import verify
from pipeline.index import Index
from pipeline.manifest import DatasetInfo

from .helpers import ROOT
from .helpers.synthetic import Synthetic, synthetic_arrays, write_synthetic
from .helpers.trees import contents


@pytest.fixture
def directory(synthetic: Synthetic, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(synthetic(10), tmp_path / "records")


def shards(directory: pathlib.Path) -> list[pathlib.Path]:
    return [directory / shard.name for shard in DatasetInfo.read(directory).splits["train"].shards]


def test_a_whole_directory_has_no_faults(directory: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(verify.faults(directory)) == []
    assert verify.main([str(directory)]) == 0
    assert capsys.readouterr().out == f"{directory}: 10 records in 3 shards, every checksum and count matches\n"


def cut_between_records(directory: pathlib.Path) -> str:
    shard = shards(directory)[0]
    index = Index.load(directory, DatasetInfo.read(directory), "train")
    shard.write_bytes(shard.read_bytes()[: index.offsets[1]])
    return shard.name


def cut_within_a_header(directory: pathlib.Path) -> str:
    shard = shards(directory)[1]
    index = Index.load(directory, DatasetInfo.read(directory), "train")
    shard.write_bytes(shard.read_bytes()[: index.offsets[1] + 5])
    return shard.name


def extended(directory: pathlib.Path) -> str:
    shard = shards(directory)[0]
    shard.write_bytes(shard.read_bytes() + b"\0")
    return shard.name


def extended_by_a_record(directory: pathlib.Path) -> str:
    one, other = shards(directory)[:2]
    one.write_bytes(one.read_bytes() + other.read_bytes())
    return one.name


def emptied(directory: pathlib.Path) -> str:
    shards(directory)[2].write_bytes(b"")
    return shards(directory)[2].name


def swapped(directory: pathlib.Path) -> str:
    one, _, other = shards(directory)
    contents = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(contents)
    return one.name


def renamed(directory: pathlib.Path) -> str:
    shard = shards(directory)[0]
    shard.rename(shard.with_name("lv-train.tfrecord-00003-of-00004"))
    return shard.name


def missing(directory: pathlib.Path) -> str:
    shards(directory)[1].unlink()
    return shards(directory)[1].name


def missing_index(directory: pathlib.Path) -> str:
    path = shards(directory)[1].with_name(shards(directory)[1].name + ".idx")
    path.unlink()
    return path.name


def added(directory: pathlib.Path) -> str:
    (directory / "lv-train.tfrecord-00009-of-00003").write_bytes(b"")
    return "lv-train.tfrecord-00009-of-00003"


def no_manifest(directory: pathlib.Path) -> str:
    (directory / "manifest.json").unlink()
    return "manifest.json"


@pytest.mark.parametrize(
    "damage",
    [
        cut_between_records,
        cut_within_a_header,
        extended,
        extended_by_a_record,
        emptied,
        swapped,
        renamed,
        missing,
        missing_index,
        added,
        no_manifest,
    ],
)
def test_damage_is_found_and_its_file_named(
    directory: pathlib.Path, damage: Callable[[pathlib.Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = damage(directory)
    assert verify.main([str(directory)]) == 1
    assert f"{directory / name}: " in capsys.readouterr().out


@hypothesis.settings(
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(st.data())
def test_one_flipped_bit_anywhere_is_found(directory: pathlib.Path, data: st.DataObject) -> None:
    name, content = data.draw(st.sampled_from([item for item in sorted(contents(directory).items()) if item[1]]))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    (directory / name).write_bytes(changed)
    try:
        assert any(name in fault for fault in verify.faults(directory))
    finally:
        (directory / name).write_bytes(content)


@pytest.fixture
def label_maps(tmp_path: pathlib.Path) -> pathlib.Path:
    """Records whose first label map starts with myocardium, blood pool and outside."""
    images, _ = synthetic_arrays(10)
    labels = np.random.default_rng(0).integers(0, 3, images.shape, dtype=np.uint8)
    labels[0, 0, :3] = 2, 1, 0
    write_synthetic(tmp_path / "records", images, labels)
    return tmp_path / "records"


def test_whole_label_maps_have_no_faults(label_maps: pathlib.Path) -> None:
    assert list(verify.faults(label_maps)) == []


@pytest.mark.parametrize("label", [0, 1, 3, 255])
def test_a_changed_byte_of_a_label_map_is_found(label_maps: pathlib.Path, label: int) -> None:
    """Whether or not the new label is that of a class."""
    shard = shards(label_maps)[0]
    content = bytearray(shard.read_bytes())
    (value,) = (
        tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(shard)))).numpy())
        .features.feature["mask"]
        .bytes_list.value
    )
    at = content.index(value)
    assert content[at] == 2
    content[at] = label
    shard.write_bytes(content)
    assert list(verify.faults(label_maps)) == [
        f"{shard}: SHA-256 does not match the manifest",
        f"{shard}: CRC-32C of the record at byte 0 does not match",
    ]


def rewritten(directory: pathlib.Path, change: Callable[[tf.train.Example], object]) -> list[str]:
    """The faults of the first record of a shard, after its example was changed and framed again."""
    shard = shards(directory)[0]
    datas = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    first = tf.train.Example.FromString(datas[0])
    change(first)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for data in [first.SerializeToString(deterministic=True), *datas[1:]]:
            writer.write(data)
    return [fault for fault in verify.faults(directory) if "record at byte 0" in fault]


def test_a_mask_with_other_values_is_found(directory: pathlib.Path) -> None:
    def change(first: tf.train.Example) -> None:
        value = first.features.feature["mask"].bytes_list.value
        value[0] = b"\x02" + value[0][1:]

    assert "the mask has a value above 1" in rewritten(directory, change)[0]


def test_a_label_above_the_highest_class_is_found(label_maps: pathlib.Path) -> None:
    def change(first: tf.train.Example) -> None:
        value = first.features.feature["mask"].bytes_list.value
        value[0] = b"\x03" + value[0][1:]

    (fault,) = rewritten(label_maps, change)
    assert fault == f"{shards(label_maps)[0]}: record at byte 0: the mask has a value above 2"


def test_another_label_in_a_valid_record_is_found_by_the_digest(label_maps: pathlib.Path) -> None:
    def change(first: tf.train.Example) -> None:
        value = first.features.feature["mask"].bytes_list.value
        value[0] = b"\x01" + value[0][1:]

    assert rewritten(label_maps, change) == []
    assert list(verify.faults(label_maps)) == [f"{shards(label_maps)[0]}: SHA-256 does not match the manifest"]


@pytest.mark.parametrize("classes", [[], ["outside", "myocardium", "blood pool"], ["outside", "blood pool"]])
def test_classes_that_were_changed_are_found(label_maps: pathlib.Path, classes: list[str]) -> None:
    path = label_maps / "manifest.json"
    fields = json.loads(path.read_bytes())
    fields["mask"]["classes"] = classes
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    (fault,) = verify.faults(label_maps)
    assert fault == f"{path}: damaged: its digest does not match its text; write the records again"


@pytest.mark.parametrize("classes", [(), ("outside", "blood pool")])
def test_classes_that_do_not_fit_the_records_are_found(label_maps: pathlib.Path, classes: tuple[str, ...]) -> None:
    """The manifest's own digest matches, so that only the records disagree."""
    info = DatasetInfo.read(label_maps)
    (label_maps / "manifest.json").write_bytes(dataclasses.replace(info, mask_classes=classes).dump())
    found = list(verify.faults(label_maps))
    assert len(found) == info.cardinality
    assert all(fault.endswith(": the mask has a value above 1") for fault in found)


def test_a_record_of_another_format_is_found(directory: pathlib.Path) -> None:
    faults = rewritten(directory, lambda first: first.features.feature["imagf"].bytes_list.value.append(b""))
    assert "not those of this format" in faults[0]


def test_a_count_of_one_is_singular(synthetic: Synthetic, capsys: pytest.CaptureFixture[str]) -> None:
    directory = synthetic(1)
    assert verify.main([str(directory)]) == 0
    assert capsys.readouterr().out == f"{directory}: 1 record in 1 shard, every checksum and count matches\n"


def test_names_that_are_not_utf_8_and_a_reader_that_leaves_are_no_error(directory: pathlib.Path) -> None:
    (directory / os.fsdecode(b"\xff")).touch()
    command = f"{sys.executable} -m pipeline.verify {shlex.quote(str(directory))}"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    shown = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False, env=environment
    )
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout == f"{directory}/\\udcff: not named in the manifest; remove it\n"
    left = subprocess.run(
        ["bash", "-c", f"{command} > >(true)"], capture_output=True, text=True, cwd=ROOT, check=False, env=environment
    )
    assert left.stderr == ""


def test_the_command_exits_with_0_1_or_2(directory: pathlib.Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.verify", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run(str(directory)).returncode == 0
    assert run(str(directory / "nowhere")).returncode == 1
    assert run().returncode == 2
    assert run(str(directory), "more").returncode == 2
    assert run("--help").returncode == 0
