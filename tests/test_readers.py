import collections
import contextlib
import gc
import itertools
import multiprocessing
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from pipeline import DatasetInfo, Records, RecordsError, iterate_batches, make_dataset, verify
from pipeline.index import Index
from pipeline.order import permute

from .helpers import ROOT
from .helpers.schedules import batches_by_definition, schedules
from .helpers.synthetic import Synthetic, synthetic_arrays, write_synthetic


def both(records: pathlib.Path, **arguments: Any) -> list[tuple[np.ndarray, ...]]:
    """The batches of both readers, which must be equal to the bit."""
    ours = list(iterate_batches(records, **arguments))
    theirs = list(make_dataset(records, **arguments).as_numpy_iterator())
    for (images, masks), (tf_images, tf_masks) in zip(ours, theirs, strict=True):
        assert images.dtype == tf_images.dtype
        assert masks.dtype == tf_masks.dtype == np.bool_
        assert np.array_equal(images, tf_images)
        assert np.array_equal(masks, tf_masks)
    return ours


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    arguments=schedules,
    image_dtype=st.sampled_from(["float32", None]),
    prefetch=st.integers(0, 3),
)
def test_both_give_the_records_that_the_schedule_names(
    synthetic: Synthetic, arguments: dict, image_dtype: Any, prefetch: int
) -> None:
    # Few counts, so that the test writes few directories.
    arguments["count"] = (1, 7, 16, 33)[arguments["count"] % 4]
    count, directory = arguments["count"], synthetic(arguments["count"])
    images, masks = synthetic_arrays(count)
    rest = {key: value for key, value in arguments.items() if key != "count"}
    try:
        ours = iterate_batches(directory, image_dtype=image_dtype, prefetch=prefetch, **rest)
    except RecordsError as error:
        with pytest.raises(RecordsError) as raised:
            make_dataset(directory, image_dtype=image_dtype, **rest)
        assert str(raised.value) == str(error)
        return
    theirs = make_dataset(directory, image_dtype=image_dtype, **rest)
    expected = batches_by_definition(**arguments)
    assert len(ours) == len(expected) == theirs.cardinality()
    for found in (list(ours), list(theirs.as_numpy_iterator())):
        assert len(found) == len(expected)
        for (found_images, found_masks), positions in zip(found, expected, strict=True):
            assert found_images.dtype == (np.float32 if image_dtype else np.int16)
            assert found_masks.dtype == np.bool_
            assert np.array_equal(found_images, images[positions][..., None].astype(found_images.dtype))
            assert np.array_equal(found_masks, masks[positions][..., None])


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("image_dtype", ["float32", None])
def test_every_stored_dtype_is_read_unchanged(synthetic: Synthetic, dtype: str, image_dtype: Any) -> None:
    directory = synthetic(9, dtype=dtype)
    images, _ = synthetic_arrays(9, dtype=dtype)
    batches = both(directory, epochs=1, shuffle=False, image_dtype=image_dtype)
    found = np.concatenate([batch for batch, _ in batches])
    assert found.dtype == (image_dtype or dtype)
    assert np.array_equal(found[..., 0], images.astype(found.dtype))


def test_label_maps_are_read_with_their_classes(tmp_path: pathlib.Path) -> None:
    images, masks = synthetic_arrays(9)
    labels = masks.astype(np.uint8) + (images > 0)
    write_synthetic(tmp_path / "records", images, labels)
    assert list(verify.faults(tmp_path / "records")) == []
    records = Records(tmp_path / "records")
    assert records.info.mask_classes == ("outside", "blood pool", "myocardium")
    assert records[3][1].dtype == np.uint8
    ours = list(iterate_batches(records, shuffle=False))
    theirs = list(make_dataset(records, shuffle=False).as_numpy_iterator())
    for batches in (ours, theirs, [records[:]]):
        found = np.concatenate([batch[1] for batch in batches])
        assert found.dtype == np.uint8
        assert np.array_equal(found[..., 0], labels)


def test_the_size_of_blocks_does_not_change_the_batches(synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a block has the end of one epoch and the start of the next."""
    monkeypatch.setattr("pipeline.graph.POSITIONS_IN_BLOCK", 12)
    assert len(both(synthetic(16), batch_size=3, epochs=5, start_step=7)) == 23


def test_a_strategy_changes_no_batch(synthetic: Synthetic) -> None:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert isinstance(tf.Variable(0.0), tf.distribute.DistributedValues)
        both(synthetic(16), epochs=2)


def test_standardized_images_have_zero_mean_and_unit_variance(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    images, masks = synthetic_arrays(9, (40, 40), "int32")
    # Sums in float32 are wrong for a large offset and a small variance.
    images = 1_000_000 + images % 7
    images[3] = 5
    write_synthetic(tmp_path / "records", images, masks)
    ours = np.concatenate([batch for batch, _ in iterate_batches(tmp_path / "records", epochs=1, standardize=True)])
    dataset = make_dataset(tmp_path / "records", epochs=1, standardize=True)
    theirs = np.concatenate([batch for batch, _ in dataset.as_numpy_iterator()])
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    constant = (ours == 0).all(axis=(1, 2, 3))
    assert constant.sum() == 1
    np.testing.assert_allclose(ours[~constant].mean(axis=(1, 2, 3), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(ours[~constant].std(axis=(1, 2, 3), dtype=np.float64), 1, atol=1e-6)


def test_standardize_agrees_with_tensorflow(synthetic: Synthetic) -> None:
    plain = next(iter(iterate_batches(synthetic(9))))[0]
    found = next(iter(iterate_batches(synthetic(9), standardize=True)))[0]
    np.testing.assert_allclose(found.astype(float), tf.image.per_image_standardization(plain), atol=1e-4)


def test_batches_belong_to_the_caller(synthetic: Synthetic) -> None:
    for prefetch in (0, 2):
        batches = list(iterate_batches(synthetic(16), batch_size=4, epochs=1, prefetch=prefetch))
        for images, masks in batches:
            assert images.flags.writeable
            assert masks.flags.writeable
            images[:], masks[:] = -1, True
        for one, other in itertools.combinations(batches, 2):
            assert not np.shares_memory(one[0], other[0])
        again = next(iter(iterate_batches(synthetic(16), batch_size=4, epochs=1, prefetch=prefetch)))
        assert (again[0] != -1).any()


def test_each_iteration_is_the_next_epoch(synthetic: Synthetic) -> None:
    batches = iterate_batches(synthetic(16), batch_size=3, seed=1)
    dataset = make_dataset(synthetic(16), batch_size=3, seed=1)
    images, _ = synthetic_arrays(16)
    for epoch in range(3):
        expected = images[permute(np.arange(16), 16, 1, epoch)]
        assert len(batches) == dataset.cardinality() == 6
        for iterator in (iter(batches), dataset.as_numpy_iterator()):
            assert np.array_equal(np.array(list(_images(iterator))), expected)


def test_an_iteration_that_is_left_early_is_followed_by_the_next_epoch(synthetic: Synthetic) -> None:
    batches = iterate_batches(synthetic(16), batch_size=3, epochs=2, start_step=8)
    dataset = make_dataset(synthetic(16), batch_size=3, epochs=None)
    images, _ = synthetic_arrays(16)
    assert len(batches) == 12 - 8
    for epoch, iterator in ((0, dataset.as_numpy_iterator()), (1, dataset.as_numpy_iterator())):
        expected = images[permute(np.arange(3), 16, 0, epoch)]
        assert np.array_equal(np.array(list(_images(itertools.islice(iterator, 1)))), expected)
    next(iter(batches))
    assert len(batches) == 12
    expected = images[permute(np.arange(3), 16, 0, 2)]
    assert np.array_equal(next(iter(batches))[0][..., 0], expected)


def test_a_data_set_that_starts_within_an_epoch_is_iterated_once(synthetic: Synthetic) -> None:
    """Its cardinality could not hold for the next iteration."""
    dataset = make_dataset(synthetic(16), batch_size=3, start_step=2)
    assert len(list(dataset)) == dataset.cardinality() == 4
    with pytest.raises(tf.errors.InvalidArgumentError, match="start_step is in the middle of an epoch"):
        list(dataset)


def test_readers_without_epochs_have_no_length(synthetic: Synthetic) -> None:
    batches = iterate_batches(synthetic(16), epochs=None)
    with pytest.raises(TypeError, match="epochs=None never ends and has no len"):
        len(batches)
    dataset = make_dataset(synthetic(16), epochs=None)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    assert len(list(itertools.islice(batches, 9))) == len(list(dataset.take(9))) == 9


def test_shapes_are_static_where_every_batch_is_full(synthetic: Synthetic) -> None:
    assert make_dataset(synthetic(16)).element_spec[0] == tf.TensorSpec((8, 6, 5, 1), tf.float32)
    assert make_dataset(synthetic(16), drop_remainder=True, batch_size=5).element_spec[1] == tf.TensorSpec(
        (5, 6, 5, 1), tf.bool
    )
    assert make_dataset(synthetic(16), batch_size=5, image_dtype=None).element_spec[0] == tf.TensorSpec(
        (None, 6, 5, 1), tf.int16
    )


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_leaving_early_leaves_nothing_behind(synthetic: Synthetic, prefetch: int) -> None:
    gc.collect()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for _ in iterate_batches(synthetic(16), batch_size=2, prefetch=prefetch):
            break
        iterator = iter(iterate_batches(synthetic(16), batch_size=2, prefetch=prefetch))
        next(iterator)
        del iterator
    gc.collect()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iterator_that_outlives_the_interpreter_prints_nothing(synthetic: Synthetic, prefetch: int) -> None:
    code = f"""
import os
from pipeline import iterate_batches
os.kept = iter(iterate_batches({str(synthetic(33))!r}, batch_size=2, epochs=None, prefetch={prefetch}))
next(os.kept)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_record_is_named_when_it_is_read(synthetic: Synthetic, tmp_path: pathlib.Path, prefetch: int) -> None:
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    shard = directory / "lv-train.tfrecord-00001-of-00003"
    offset = int(shard.with_name(shard.name + ".idx").read_text().split()[2])
    changed = bytearray(shard.read_bytes())
    changed[offset + 60] ^= 1
    shard.write_bytes(changed)
    first = len(list(np.loadtxt(directory / "lv-train.tfrecord-00000-of-00003.idx", ndmin=2)))

    iterator = iter(iterate_batches(directory, batch_size=1, shuffle=False, epochs=1, prefetch=prefetch))
    for _ in range(first + 1):
        next(iterator)
    with pytest.raises(RecordsError, match=rf"{shard.name}: record 1 at byte {offset}: CRC-32C does not match"):
        next(iterator)
    unchecked = iterate_batches(directory, batch_size=1, epochs=1, check_crc=False, prefetch=prefetch)
    assert len(list(unchecked)) == 10


def test_make_dataset_names_a_damaged_record_in_the_error_of_tensorflow(
    synthetic: Synthetic, tmp_path: pathlib.Path
) -> None:
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    shard = directory / "lv-train.tfrecord-00001-of-00003"
    changed = bytearray(shard.read_bytes())
    changed[60] ^= 1
    shard.write_bytes(changed)
    iterator = make_dataset(directory, batch_size=1, shuffle=False, epochs=1).as_numpy_iterator()
    for _ in range(DatasetInfo.load(directory).splits["train"].shards[0].count):
        next(iterator)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"RecordsError: {shard}: record 0 at byte 0: CRC-32C"):
        next(iterator)
    assert len(both(directory, epochs=1, check_crc=False)) == 2


def _change(shard: pathlib.Path) -> None:
    # Without a wait: the system lets a change in place wait while a shard is mapped (test_leases.py).
    with contextlib.suppress(BlockingIOError):
        descriptor = os.open(shard, os.O_WRONLY | os.O_NONBLOCK)
        os.pwrite(descriptor, b"!", os.fstat(descriptor).st_size - 1)
        os.close(descriptor)


def _replace(shard: pathlib.Path) -> None:
    copy = shard.with_name("copy")
    shutil.copy(shard, copy)
    os.replace(copy, shard)


@pytest.mark.parametrize("change", [_change, _replace, pathlib.Path.unlink])
@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_shard_that_changes_while_it_is_read_is_an_error(
    synthetic: Synthetic, tmp_path: pathlib.Path, change: Callable[[pathlib.Path], None], opened: bool, prefetch: int
) -> None:
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    shard = directory / f"lv-train.tfrecord-0000{0 if opened else 1}-of-00003"
    iterator = iter(iterate_batches(directory, batch_size=1, shuffle=False, check_crc=False, prefetch=prefetch))
    next(iterator)
    change(shard)
    what = (
        "the shard was removed" if change is pathlib.Path.unlink else "the shard (changed after it was opened|is being)"
    )
    if prefetch:
        # A batch may be in preparation, after the check of its shard.
        what = f"({what}|the bytes around image and mask are not those of this format)"
    with pytest.raises(RecordsError, match=rf"{shard.name}: .*{what}.*; see python -m pipeline"):
        list(itertools.islice(iterator, 10))


def test_a_shard_that_is_emptied_before_it_is_opened_is_an_error(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    batches = iterate_batches(directory, shuffle=False, prefetch=0)
    os.truncate(directory / "lv-train.tfrecord-00000-of-00003", 0)
    with pytest.raises(RecordsError, match="of-00003: the shard changed after it was opened"):
        next(iter(batches))


def test_bytes_of_another_format_are_not_taken_for_pixels(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    shard = directory / "lv-train.tfrecord-00000-of-00003"
    changed = bytearray(shard.read_bytes())
    changed[12 + 3] ^= 1
    shard.write_bytes(changed)
    with pytest.raises(RecordsError, match="the bytes around image and mask are not those of this format"):
        list(iterate_batches(directory, shuffle=False, epochs=1, check_crc=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "there is no split 'test'; the splits are: train"),
        ({"image_dtype": "float16"}, "image_dtype is 'float16', \"float32\" or None expected"),
        ({"image_dtype": "pixels"}, "image_dtype is 'pixels', \"float32\" or None expected"),
        ({"image_dtype": None, "standardize": True}, "standardize gives float32"),
        ({"batch_size": 0}, "batch_size is 0, at least 1 expected"),
        ({"seed": -1}, "seed is -1, at least 0 expected"),
        ({"start_step": -1}, "start_step is -1, at least 0 expected"),
        ({"epochs": 0}, "epochs is 0, at least 1 expected"),
        ({"shard": (2, 2)}, r"shard is \(2, 2\), \(index, count\) with 0 <= index < count expected"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_would_be_right(
    synthetic: Synthetic, arguments: dict, message: str
) -> None:
    for reader in (iterate_batches, make_dataset):
        with pytest.raises(RecordsError, match=message):
            reader(synthetic(10), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 8.0}, "batch_size is 8.0, a whole number expected"),
        ({"batch_size": "8"}, "batch_size is '8', a whole number expected"),
        ({"batch_size": True}, "batch_size is True, a whole number expected"),
        ({"epochs": 1.5}, "epochs is 1.5, a whole number expected"),
        ({"seed": None}, "seed is None, a whole number expected"),
        ({"start_step": "0"}, "start_step is '0', a whole number expected"),
        ({"shard": 2}, r"shard is 2, \(index, count\) with 0 <= index < count expected"),
        ({"shard": (0, 1, 2)}, r"shard is \(0, 1, 2\), \(index, count\)"),
        ({"shuffle": "no"}, "shuffle is 'no', True or False expected"),
        ({"drop_remainder": 0}, "drop_remainder is 0, True or False expected"),
        ({"standardize": 1}, "standardize is 1, True or False expected"),
        ({"positions": None}, "positions is None, True or False expected"),
        ({"check_crc": "yes"}, "check_crc is 'yes', True or False expected"),
        ({"split": ["train"]}, r"split is \['train'\], the name of one split"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_by_name(synthetic: Synthetic, arguments: dict, message: str) -> None:
    for reader in (iterate_batches, make_dataset):
        with pytest.raises(TypeError, match=message):
            reader(synthetic(10), **arguments)


def test_numbers_of_numpy_are_numbers(synthetic: Synthetic) -> None:
    arguments: dict[str, Any] = {
        "batch_size": np.uint8(3),
        "seed": np.int64(1),
        "epochs": np.int32(2),
        "start_step": np.int16(1),
        "shard": (np.int64(0), np.int64(2)),
        "shuffle": np.True_,
        "image_dtype": np.float32,
    }
    plain: dict[str, Any] = {"batch_size": 3, "seed": 1, "epochs": 2, "start_step": 1, "shard": (0, 2)}
    for one, other in zip(both(synthetic(400), **arguments), both(synthetic(400), **plain), strict=True):
        assert np.array_equal(one[0], other[0])


def test_wrong_arguments_of_one_reader_are_refused(synthetic: Synthetic) -> None:
    with pytest.raises(RecordsError, match="prefetch is -1, at least 0 expected"):
        iterate_batches(synthetic(10), prefetch=-1)
    with pytest.raises(RecordsError, match="batch_size is 0, at least 1 expected"):
        DatasetInfo.load(synthetic(10)).splits["train"].steps_per_epoch(0)
    with pytest.raises(TypeError, match=r"batch_size is 2\.5, a whole number expected"):
        DatasetInfo.load(synthetic(10)).splits["train"].steps_per_epoch(2.5)  # type: ignore[arg-type]


def test_reading_needs_no_tensorflow(synthetic: Synthetic) -> None:
    code = (
        "import sys, pipeline.verify\nfrom pipeline import *\nmake_dataset, Records, DatasetInfo\n"
        f"next(iter(iterate_batches({str(synthetic(10))!r})))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"tensorflow", "keras", "pydicom", "cv2", "absl", "preprocess"} & set(result.stdout.split())
    assert {"pipeline", "numpy", "google_crc32c"} <= set(result.stdout.split())


def test_one_damaged_batch_does_not_stop_those_before_it(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    """With or without prefetch, an error comes with its batch."""
    directory = shutil.copytree(synthetic(10), tmp_path / "records")
    shard = directory / "lv-train.tfrecord-00000-of-00003"
    changed = bytearray(shard.read_bytes())
    changed[int(np.loadtxt(f"{shard}.idx")[2, 0]) + 60] ^= 1
    shard.write_bytes(changed)
    for prefetch in (0, 1, 2, 9):
        iterator = iter(iterate_batches(directory, batch_size=1, shuffle=False, epochs=1, prefetch=prefetch))
        assert len(list(itertools.islice(iterator, 2))) == 2
        with pytest.raises(RecordsError, match="record 2 at byte"):
            next(iterator)
        assert list(iterator) == []


@pytest.mark.parametrize("standardize", [False, True])
def test_memory_does_not_grow_from_epoch_to_epoch(synthetic: Synthetic, standardize: bool) -> None:
    batches = iterate_batches(synthetic(33, shape=(64, 64)), epochs=101, standardize=standardize)
    steps = len(batches) // 101
    tracemalloc.start()
    try:
        iterator = iter(batches)
        collections.deque(itertools.islice(iterator, steps), maxlen=0)
        gc.collect()
        after_one, _ = tracemalloc.get_traced_memory()
        collections.deque(iterator, maxlen=0)
        gc.collect()
        after_all, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    batch_bytes = 8 * 64 * 64 * (1 + (8 if standardize else 4))
    assert after_all < after_one + batch_bytes
    assert peak < after_one + 10 * batch_bytes


def _sum_of_first(directory: pathlib.Path) -> float:
    return float(next(iter(iterate_batches(directory)))[0].sum())


def test_spawned_workers_read_the_same_batches(synthetic: Synthetic) -> None:
    directory = synthetic(10)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum_of_first, (directory,)) == _sum_of_first(directory)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_forked_workers_read_the_same_batches(synthetic: Synthetic, prefetch: int) -> None:
    """Also workers that are forked while the parent reads, with its open files."""
    batches = iterate_batches(synthetic(16), batch_size=2, epochs=1, prefetch=prefetch)
    iterator = iter(batches)
    expected = [next(iterator), *iterator]
    batches = iterate_batches(synthetic(16), batch_size=2, epochs=1, prefetch=prefetch)
    sent = pickle.loads(pickle.dumps(batches))
    iterator = iter(batches)
    next(iterator)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(list, [sent] * 2)
    for other in found:
        assert all(np.array_equal(one[0], another[0]) for one, another in zip(expected, other, strict=True))
    assert np.array_equal(next(iterator)[0], expected[1][0])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_iterator_does_not_hang_in_a_forked_process(synthetic: Synthetic) -> None:
    """Its background thread stays behind in the parent."""
    iterator = iter(iterate_batches(synthetic(16), batch_size=2))
    next(iterator)
    child = os.fork()
    if not child:
        try:
            next(iterator)
        except RecordsError as error:
            os._exit(42 if "call iter() in the new process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    next(iterator)


def _images(batches: Iterable[tuple[np.ndarray, ...]]) -> Iterator[np.ndarray]:
    for images, _ in batches:
        yield from images[..., 0]


_READERS = {
    "iterate_batches": lambda *args, **kwargs: iter(iterate_batches(*args, **kwargs)),
    "make_dataset": lambda *args, **kwargs: make_dataset(*args, **kwargs).as_numpy_iterator(),
}


@pytest.mark.parametrize("read", _READERS.values(), ids=_READERS)
def test_a_directory_exchanged_while_it_is_opened_is_not_mixed_with_the_other(
    synthetic: Synthetic, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    directory, other = tmp_path / "records", tmp_path / "other"
    shutil.copytree(synthetic(16, dtype="uint16"), directory)
    shutil.copytree(synthetic(16, dtype="int16"), other)
    load = Index.load

    def exchanged(*arguments: Any) -> Index:
        directory.rename(tmp_path / "former")
        other.rename(directory)
        return load(*arguments)

    monkeypatch.setattr(Index, "load", exchanged)
    found = list(_images(read(directory, shuffle=False, epochs=1)))
    assert np.array_equal(found, synthetic_arrays(16, dtype="uint16")[0])


@pytest.mark.parametrize("read", _READERS.values(), ids=_READERS)
def test_records_that_are_overwritten_end_with_an_error(tmp_path: pathlib.Path, read: Callable) -> None:
    images, masks = synthetic_arrays(100)
    write_synthetic(tmp_path / "records", images, masks)
    iterator = read(tmp_path / "records", batch_size=1, epochs=3)
    found = [next(iterator)[0][0, ..., 0]]
    write_synthetic(tmp_path / "records", images + 1, masks, overwrite=True)
    with pytest.raises((RecordsError, tf.errors.InvalidArgumentError), match="removed, or its directory replaced"):
        found += _images(iterator)
    # The first pixel is the record's number.
    assert all(np.array_equal(image, images[int(image[0, 0])]) for image in found)


@pytest.mark.parametrize("read", _READERS.values(), ids=_READERS)
def test_a_relative_path_is_resolved_once(
    synthetic: Synthetic, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    for name, count in (("here", 16), ("elsewhere", 10)):
        shutil.copytree(synthetic(count), tmp_path / name / "records")
    monkeypatch.chdir(tmp_path / "here")
    iterator = read("records", shuffle=False, epochs=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(list(_images(iterator)), synthetic_arrays(16)[0])


def test_batches_find_their_directory_in_another_process_or_say_so(
    synthetic: Synthetic, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(synthetic(16), tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(iterate_batches("records", shuffle=False, epochs=1))
    monkeypatch.chdir("/")
    assert np.array_equal(list(_images(pickle.loads(sent))), synthetic_arrays(16)[0])
    images, masks = synthetic_arrays(16)
    write_synthetic(directory, images + 1, masks, overwrite=True)
    with pytest.raises(RecordsError, match="records: holds other records than when it was opened; open it again"):
        pickle.loads(sent)


def test_a_data_set_that_is_not_used_any_more_leaves_nothing_open(synthetic: Synthetic) -> None:
    def read() -> int:
        for _ in make_dataset(synthetic(16), batch_size=2).take(3):
            pass
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = read()
    assert [read() for _ in range(3)] == [before] * 3


def test_an_iterator_keeps_its_files_when_the_data_set_is_gone(synthetic: Synthetic) -> None:
    iterator = make_dataset(synthetic(16), batch_size=2, epochs=None).map(lambda *batch: batch).as_numpy_iterator()
    gc.collect()
    assert len(list(itertools.islice(iterator, 30))) == 30


def test_a_batch_size_beyond_the_share_gives_one_batch_an_epoch(synthetic: Synthetic) -> None:
    assert [len(images) for images, _ in both(synthetic(16), batch_size=10**12, epochs=2)] == [16, 16]


def test_an_iterator_of_tensorflow_has_no_checkpoint(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    """start_step replaces it; if a later TensorFlow can save it, the documentation has to change."""
    checkpoint = tf.train.Checkpoint(iterator=iter(make_dataset(synthetic(16))))
    with pytest.raises(tf.errors.FailedPreconditionError, match="stateful"):
        checkpoint.save(tmp_path / "checkpoint")


def test_batches_can_be_sent_to_another_process(synthetic: Synthetic) -> None:
    batches = iterate_batches(synthetic(16), epochs=1)
    sent = pickle.dumps(batches)
    expected = list(batches)
    found = list(pickle.loads(sent))
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(expected, found, strict=True))


def test_keras_trains_without_a_warning(phantom_records: pathlib.Path) -> None:
    """In a separate process, whose whole output is checked: TensorFlow's warnings bypass Python's."""
    steps = DatasetInfo.load(phantom_records).splits["train"].steps_per_epoch(8)
    code = f"""
import warnings
warnings.simplefilter("error")
import keras
from pipeline import make_dataset
model = keras.Sequential([keras.Input((256, 256, 1)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
model.compile("adam", "binary_crossentropy")
train = make_dataset({str(phantom_records)!r}, standardize=True)
val = make_dataset({str(phantom_records)!r}, split="val", standardize=True)
history = model.fit(train, epochs=2, validation_data=val, shuffle=False, verbose=0)
endless = make_dataset({str(phantom_records)!r}, epochs=None, start_step=2)
model.fit(endless, epochs=2, steps_per_epoch={steps}, shuffle=False, verbose=0)
model.fit(train, epochs=2, steps_per_epoch={steps}, shuffle=False, verbose=0)
print("epochs", len(history.history["val_loss"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["epochs", "2"]
    # Lines that start with I are information; what TensorFlow prints at its start concerns the machine, not the data.
    starting = ("All log messages before absl", "cuInit", "To enable the following instructions")
    said = [line for line in result.stderr.splitlines() if not any(words in line for words in starting)]
    assert [line for line in said if line and not line.startswith("I0000 ")] == []
