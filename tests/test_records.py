import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from pipeline import frames, schema
from pipeline.directory import RecordsDirectory
from pipeline.errors import RecordsError
from pipeline.index import Index, read_index
from pipeline.manifest import DatasetInfo, FileInfo, ShardInfo
from pipeline.records import Layout, RecordReader

from .helpers import ROOT
from .helpers.synthetic import Synthetic, synthetic_arrays


def example(image: bytes, mask: bytes, meta: dict[str, bytes]) -> bytes:
    values = {schema.IMAGE: image, schema.MASK: mask, **meta}
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


@hypothesis.given(
    image_bytes=st.integers(1, 70_000), mask_bytes=st.integers(1, 35_000), meta=st.binary(max_size=40_000)
)
def test_the_layout_is_where_protobuf_puts_the_pixels(image_bytes: int, mask_bytes: int, meta: bytes) -> None:
    image, mask = b"\xab" * image_bytes, b"\x01" * mask_bytes
    data = example(image, mask, {schema.STUDY_ID: meta})
    layout = Layout(image_bytes, mask_bytes)
    assert data.startswith(layout.head(len(data)) + image + layout.gap + mask)


def test_data_too_short_for_its_pixels_is_refused() -> None:
    with pytest.raises(RecordsError, match="20 bytes of data cannot hold an image of 60"):
        Layout(60, 30).head(20)


@hypothesis.given(st.lists(st.binary(max_size=300), max_size=5))
def test_frames_are_those_that_tensorflow_writes(datas: list[bytes]) -> None:
    # Not tmp_path: hypothesis runs many examples in one test.
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "frames")
        with tf.io.TFRecordWriter(os.fspath(path)) as writer:
            for data in datas:
                writer.write(data)
        scanned = list(frames.scan(path))
        assert [data for _, data in scanned] == datas
        assert [offset for offset, _ in scanned] == np.cumsum([0, *(len(data) + 16 for data in datas)])[:-1].tolist()


@pytest.mark.parametrize("dtype", schema.IMAGE_DTYPES)
def test_records_are_read_by_position(synthetic: Synthetic, dtype: str) -> None:
    directory = synthetic(20, dtype=dtype)
    images, masks = synthetic_arrays(20, dtype=dtype)
    info = DatasetInfo.load(directory)
    positions = np.array([19, 0, 7, 6, 13, 7])
    found_images = np.empty((6, *info.image_shape), info.image_dtype)
    found_masks = np.empty((6, *info.mask_shape), np.bool_)
    reader = RecordReader(directory, info, Index.load(directory, info, "train"))
    reader.read(positions, found_images, found_masks)
    assert np.array_equal(found_images[..., 0], images[positions])
    assert np.array_equal(found_masks[..., 0], masks[positions])


def test_many_shards_need_few_descriptors(synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards._MOST_OPEN", 2)
    directory = synthetic(20, num_shards=10)
    images, _ = synthetic_arrays(20)
    info = DatasetInfo.load(directory)
    found = np.empty((20, *info.image_shape), info.image_dtype)
    before = len(os.listdir("/proc/self/fd"))
    reader = RecordReader(directory, info, Index.load(directory, info, "train"))
    reader.read(np.arange(20)[::-1], found, np.empty((20, *info.mask_shape), np.bool_))
    # The directory takes one, and each map two.
    assert len(os.listdir("/proc/self/fd")) == before + 1 + 2 * 2
    del reader
    assert len(os.listdir("/proc/self/fd")) == before
    assert np.array_equal(found[::-1, ..., 0], images)


def test_threads_together_open_few_shards(synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although each may count the open shards while another opens one."""
    monkeypatch.setattr("pipeline.shards._MOST_OPEN", 4)
    directory = synthetic(60, num_shards=60)
    images, _ = synthetic_arrays(60)
    info = DatasetInfo.load(directory)
    before = len(os.listdir("/proc/self/fd"))
    reader = RecordReader(directory, info, Index.load(directory, info, "train"))

    def read(positions: np.ndarray) -> None:
        for position in positions:
            found = np.empty((1, *info.image_shape), info.image_dtype)
            reader.read(np.array([position]), found, np.empty((1, *info.mask_shape), np.bool_))
            assert np.array_equal(found[0, ..., 0], images[position])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            list(threads.map(read, [np.random.default_rng(n).permutation(60) for n in range(12)]))
    finally:
        sys.setswitchinterval(interval)
    assert len(os.listdir("/proc/self/fd")) <= before + 1 + 2 * 4


def test_a_batch_over_more_shards_than_a_process_may_open_is_read(synthetic: Synthetic) -> None:
    code = f"""
import resource
import numpy as np
from pipeline import iterate_batches
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for images, masks in iterate_batches({os.fspath(synthetic(60, num_shards=60))!r}, batch_size=60, epochs=3):
    print(*sorted(images[:, 0, 0, 0].astype(int)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [[str(number) for number in range(60)]] * 3


def test_an_index_of_other_records_is_refused(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    directory = shutil.copytree(synthetic(20), tmp_path / "records")
    path = directory / "lv-train.tfrecord-00000-of-00003.idx"
    first, second, *rest = path.read_text().splitlines()
    size = int(first.split()[1])
    # As long as the shard, but its first two records are one byte longer and shorter.
    moved = [f"0 {size + 1}", f"{size + 1} {int(second.split()[1]) - 1}"]
    path.write_text("\n".join([*moved, *rest]) + "\n")
    with pytest.raises(RecordsError, match=rf"{path.name}: does not match the manifest"):
        Index.load(directory, DatasetInfo.load(directory), "train")


def test_a_pipe_in_the_place_of_a_file_does_not_block(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    directory = shutil.copytree(synthetic(20), tmp_path / "records")
    path = directory / "lv-train.tfrecord-00000-of-00003.idx"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RecordsError, match=rf"{path.name}: cannot be read as an index .*not a regular file"):
        Index.load(directory, DatasetInfo.load(directory), "train")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("0 10\n", 2),
        ("0 10\n10 11\n", 2),
        ("1 19\n", 1),
        ("0 10\n11 9\n", 2),
        ("0 10 3\n10 10 3\n", 2),
        ("0\n", 1),
        ("a b\n", 1),
        ("# 0 20\n", 1),
        ("0 99999999999999999999\n", 1),
    ],
)
def test_an_index_that_does_not_fit_its_shard_is_refused(tmp_path: pathlib.Path, text: str, count: int) -> None:
    path = tmp_path / "shard.idx"
    path.write_text(text)
    with pytest.raises(RecordsError, match=r"shard\.idx: (does not cover|cannot be read).*write the records again"):
        read_index(RecordsDirectory(tmp_path), ShardInfo("shard", count, 20, ""), FileInfo.of(path))


def test_a_missing_index_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecordsError, match=r"shard\.idx: cannot be read as an index"):
        read_index(RecordsDirectory(tmp_path), ShardInfo("shard", 1, 20, ""), None)


def test_image_and_mask_sort_before_all_other_features() -> None:
    assert sorted(feature.name for feature in schema.FEATURES)[:2] == [schema.IMAGE, schema.MASK]
