import itertools
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pipeline import DatasetInfo, Records, RecordsError, iterate_batches, make_dataset, schema
from pipeline.directory import FileInfo
from pipeline.order import permute

from .helpers import ROOT
from .helpers.records import pairs_of
from .helpers.synthetic import Synthetic, synthetic_arrays
from .helpers.tables import read_table


@pytest.fixture(scope="module")
def images_and_masks() -> tuple[np.ndarray, np.ndarray]:
    images, masks = synthetic_arrays(33)
    return images[..., None].astype(np.float32), masks[..., None]


def test_a_record_is_read_by_its_position(
    synthetic: Synthetic, images_and_masks: tuple[np.ndarray, np.ndarray]
) -> None:
    records = Records(synthetic(33))
    images, masks = images_and_masks
    assert len(records) == 33
    for index in (0, 32, -1, -33, np.int64(5), np.uint8(7)):
        image, mask = records[index]
        assert image.dtype == np.float32
        assert mask.dtype == np.bool_
        assert np.array_equal(image, images[index])
        assert np.array_equal(mask, masks[index])
    assert sum(1 for _ in records) == 33


@pytest.mark.parametrize(
    "index",
    [slice(3, 9), slice(None, None, -4), [5, 5, 0, -1], [], np.array([32, 0], np.int32), range(4), np.array([], int)],
    ids=repr,
)
def test_several_records_are_stacked(
    synthetic: Synthetic, images_and_masks: tuple[np.ndarray, np.ndarray], index: Any
) -> None:
    found = Records(synthetic(33))[index]
    chosen = index if isinstance(index, slice) else np.array(list(index), int)
    for stacked, expected in zip(found, images_and_masks, strict=True):
        assert np.array_equal(stacked, expected[chosen])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (33, IndexError, "index 33 is out of bounds"),
        (-34, IndexError, "index -34 is out of bounds"),
        ([0, 33], IndexError, "index 33 is out of bounds"),
        (1.0, TypeError, "1.0 is not an integer, a slice or a list of integers"),
        ("0", TypeError, "'0' is not an integer, a slice or a list of integers"),
        (None, TypeError, "None is not an integer"),
        (True, TypeError, "True is not an integer"),
        ([[0]], TypeError, "is not an integer, a slice or a list of integers"),
        (np.ones(33, bool), TypeError, r"is not an integer, a slice or a list of integers; where\(\) takes booleans"),
        (10**30, IndexError, "out of bounds for 33 records"),
    ],
    ids=repr,
)
def test_positions_that_are_not_there_are_refused(
    synthetic: Synthetic, index: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Records(synthetic(33))[index]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("where"), st.integers(0, 2**33 - 1)),
        st.tuples(st.just("take"), st.lists(st.integers(-100, 100), min_size=1, max_size=40)),
    ),
    max_size=4,
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(steps)
def test_views_of_views_are_selections_of_selections(synthetic: Synthetic, steps: list[tuple[str, Any]]) -> None:
    records, expected = Records(synthetic(33)), np.arange(33)
    for kind, argument in steps:
        if kind == "where":
            chosen = np.array([argument >> place & 1 for place in range(len(expected))], bool)
            records, expected = records.where(chosen), expected[chosen]
        elif len(expected):
            positions = np.array(argument) % len(expected)
            records, expected = records.take(positions), expected[positions]
    assert len(records) == len(expected)
    # The first pixel of an image is its number.
    assert np.array_equal(records[:][0][:, 0, 0, 0], expected)
    assert np.array_equal(records.table["instance_number"], expected)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ([0, 1, 2], TypeError, r"condition has dtype int64, bool expected; take\(\) chooses by position"),
        ([True, False], RecordsError, r"condition has shape \(2,\), \(33,\) expected: one boolean per record"),
        (True, RecordsError, r"condition has shape \(\)"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(
    synthetic: Synthetic, condition: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Records(synthetic(33)).where(condition)


def test_positions_that_do_not_fit_are_refused(synthetic: Synthetic) -> None:
    with pytest.raises(IndexError, match="index 33 is out of bounds"):
        Records(synthetic(33)).take([0, 33])
    with pytest.raises(IndexError, match="index 18446744073709551615 is out of bounds for 33 records"):
        Records(synthetic(33)).take(np.array([0, 2**64 - 1], np.uint64))
    with pytest.raises(TypeError, match="is not an integer"):
        Records(synthetic(33)).take([0.5])


def test_positions_that_do_not_fit_are_reported_in_short(synthetic: Synthetic) -> None:
    with pytest.raises(TypeError, match="is not an integer") as caught:
        Records(synthetic(33)).take([True] * 33 * 1000)
    assert len(str(caught.value)) < 200


def test_the_table_has_what_the_records_and_pairs_csv_say(phantom_records: pathlib.Path) -> None:
    """In the order of the records, as TensorFlow reads them."""
    records = Records(phantom_records)
    table = records.table
    assert table.dtype.names == tuple(column.name for column in schema.COLUMNS)
    keys = list(zip(table["study_id"].tolist(), table["instance_number"].tolist(), strict=True))
    assert keys == [key for key, _, _ in pairs_of(phantom_records)]
    rows = {(row["study_id"], int(row["instance_number"])): row for row in read_table(phantom_records / "pairs.csv")}
    measured = [column for column in schema.COLUMNS if column.name in next(iter(rows.values()))]
    assert len(measured) == 15
    for key, found in zip(keys, table, strict=True):
        for column in measured:
            said = rows[key][column.name]
            if column.dtype == "str":
                assert found[column.name] == said
            else:
                assert found[column.name] == pytest.approx(float(said or "nan"), rel=1e-5, nan_ok=True)
    image_mean = [image[mask].mean() for image, mask in records]
    np.testing.assert_allclose(table["mean_inside"], image_mean, rtol=1e-5)
    assert (table["pixel_spacing_mm"] > 0).all()
    assert np.isfinite(table["slice_location_mm"]).all()


def test_the_table_of_a_split_has_the_rows_of_its_records(phantom_records: pathlib.Path) -> None:
    whole = Records(phantom_records)
    assert whole.splits == ("train", "val")
    assert whole.studies == DatasetInfo.load(phantom_records).studies
    for name in whole.splits:
        records = Records(phantom_records, name)
        assert np.array_equal(records.table["mask_area_px"], records[:][1].sum(axis=(1, 2, 3)))
        assert set(records.table["split"]) == {name}
        assert records.splits == (name,)
        assert records.studies == DatasetInfo.load(phantom_records).splits[name].studies


def test_the_table_cannot_be_changed(synthetic: Synthetic) -> None:
    for records in (Records(synthetic(33)), Records(synthetic(33)).take([2, 1])):
        with pytest.raises(ValueError, match="read-only"):
            records.table["phase_index"] = 0


def test_records_of_version_0_1_0_get_their_table_from_pairs_csv(
    phantom_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = shutil.copytree(phantom_records, tmp_path / "records")
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["files"][schema.TABLE_FILE]
    (directory / schema.TABLE_FILE).unlink()
    _sign(directory, manifest)
    found, expected = Records(directory).table, Records(phantom_records).table
    assert found.dtype.names == expected.dtype.names
    for name in found.dtype.names or ():
        if name in ("pixel_spacing_mm", "slice_location_mm"):
            assert np.isnan(found[name]).all()
        elif found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        else:
            assert np.array_equal(found[name], expected[name])


def _sign(directory: pathlib.Path, manifest: dict) -> None:
    """Writes a manifest with its digest, as docs/FORMAT.md defines it."""
    import hashlib

    manifest.pop("sha256")
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


def _other_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [_cut, _other_byte])
def test_a_damaged_table_is_refused_and_the_records_are_read(
    synthetic: Synthetic, tmp_path: pathlib.Path, damage: Any
) -> None:
    directory = shutil.copytree(synthetic(33), tmp_path / "records")
    path = directory / schema.TABLE_FILE
    path.write_bytes(damage(path.read_bytes()))
    records = Records(directory)
    assert len(records[:][0]) == 33
    with pytest.raises(RecordsError, match=r"records\.npy: does not match the manifest; write"):
        _ = records.table
    assert repr(records).endswith(": 33 of unknown studies, splits train, (6, 5, 1) int16, masks bool>")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        pickle.dumps([1]),
        b"study_id\n" * 33,
        _npy_header("(" * 9000),
        _npy_header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**55},)}}"),
        _npy_header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**70},)}}"),
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "cut", "pickle", "text", "header", "rows", "more rows", "archive"],
)
def test_a_file_that_is_not_a_table_is_refused_even_if_the_manifest_names_it(
    synthetic: Synthetic, tmp_path: pathlib.Path, content: bytes
) -> None:
    import hashlib

    directory = shutil.copytree(synthetic(33), tmp_path / "records")
    (directory / schema.TABLE_FILE).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][schema.TABLE_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _sign(directory, manifest)
    with pytest.raises(RecordsError, match=r"records\.npy: is not a table of these records"):
        _ = Records(directory).table


def test_a_table_with_numbers_that_are_no_characters_is_refused(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    directory = shutil.copytree(synthetic(33), tmp_path / "records")
    path = directory / schema.TABLE_FILE
    content = path.read_bytes()
    assert b"A\0\0\0B\0\0\0" in content
    path.write_bytes(content.replace(b"A\0\0\0B\0\0\0", b"A\0\0\xffB\0\0\0", 1))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][schema.TABLE_FILE] = vars(FileInfo.of(path))
    _sign(directory, manifest)
    with pytest.raises(RecordsError, match=r"records\.npy: .*column study_id is not text"):
        _ = Records(directory).table


@pytest.mark.parametrize(
    ("name", "dtype", "found"),
    [("study_id", "S4", "S4"), ("slice_index", "f8", "float64"), ("pixel_spacing_mm", "f8", "float64")],
)
def test_a_table_whose_column_has_another_dtype_is_refused(
    synthetic: Synthetic, tmp_path: pathlib.Path, name: str, dtype: str, found: str
) -> None:
    import hashlib

    directory = shutil.copytree(synthetic(33), tmp_path / "records")
    path = directory / schema.TABLE_FILE
    table = np.load(path)
    fields = [(field, dtype if field == name else table.dtype[field]) for field in table.dtype.names]
    np.save(path, np.zeros(33, fields))
    content = path.read_bytes()
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][schema.TABLE_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _sign(directory, manifest)
    with pytest.raises(RecordsError, match=rf"not a table of these records \(column {name} has dtype .*{found}"):
        _ = Records(directory).table


def test_a_table_of_other_records_is_refused(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    import hashlib

    directory = shutil.copytree(synthetic(33), tmp_path / "records")
    content = (synthetic(16) / schema.TABLE_FILE).read_bytes()
    (directory / schema.TABLE_FILE).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][schema.TABLE_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _sign(directory, manifest)
    with pytest.raises(RecordsError, match="has rows for 16 records, 33 expected"):
        _ = Records(directory).table


@pytest.mark.filterwarnings("ignore:the folds mix the splits:UserWarning")
def test_folds_hold_each_study_out_once(phantom_records: pathlib.Path) -> None:
    records = Records(phantom_records)
    studies = records.studies
    for n in range(2, len(studies) + 1):
        for seed in (0, 1):
            held_out: list[str] = []
            for k in range(n):
                train, val = records.split(k, n, seed)
                assert not set(train.studies) & set(val.studies)
                assert len(train) + len(val) == len(records)
                assert np.array_equal(records.where(np.isin(records.table["study_id"], val.studies))[:][0], val[:][0])
                held_out += val.studies
            assert tuple(sorted(held_out)) == studies


@pytest.mark.filterwarnings("ignore:the folds mix the splits:UserWarning")
def test_folds_do_not_depend_on_the_order_of_records(phantom_records: pathlib.Path) -> None:
    records = Records(phantom_records)
    shuffled = records.take(np.random.default_rng(0).permutation(len(records)))
    for k in range(2):
        assert [one.studies for one in records.split(k, 2)] == [one.studies for one in shuffled.split(k, 2)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1), RecordsError, "n is 1, at least 2 expected"),
        ((0, 99), RecordsError, "n is 99, at most 3 expected: a fold has at least one study"),
        ((2, 2), RecordsError, "k is 2, at most 1 expected: the folds are numbered from 0"),
        ((-1, 2), RecordsError, "k is -1, at least 0 expected"),
        ((0.0, 2), TypeError, r"k is 0\.0, a whole number expected"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(
    phantom_records: pathlib.Path, arguments: tuple, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Records(phantom_records).split(*arguments)


def test_the_representation_says_what_is_in_a_view(phantom_records: pathlib.Path) -> None:
    records = Records(phantom_records, "val")
    assert repr(records.take([0, 1])) == (
        f"<Records of '{phantom_records}': 2 of 1 studies, splits val, (256, 256, 1) int16, masks bool>"
    )


def _first_pixels(records: Records) -> list[float]:
    return [float(value) for value in records[:][0][:, 0, 0, 0]]


def test_the_steps_of_an_epoch_are_those_of_the_view(synthetic: Synthetic) -> None:
    records = Records(synthetic(20))
    view = records.take(np.arange(17))
    for batch_size, drop_remainder in itertools.product((1, 8, 17), (False, True)):
        batches = iterate_batches(view, batch_size=batch_size, drop_remainder=drop_remainder)
        assert view.steps_per_epoch(batch_size, drop_remainder) == len(batches)
    assert view.steps_per_epoch() == records.steps_per_epoch() == 3
    with pytest.raises(RecordsError, match="batch_size is 0, at least 1 expected"):
        view.steps_per_epoch(0)


def test_folds_of_several_splits_are_a_warning(phantom_records: pathlib.Path) -> None:
    with pytest.warns(
        UserWarning, match=r"the folds mix the splits .*, .*; Records\(path, split\).split\(...\) divides"
    ):
        Records(phantom_records).split(0, 2)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_views_are_read_in_other_processes(synthetic: Synthetic, method: str) -> None:
    view = Records(synthetic(33)).take([3, 1, 1])
    assert _first_pixels(view) == [3, 1, 1]
    assert list(view.table["instance_number"]) == [3, 1, 1]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_first_pixels, (view,)) == [3, 1, 1]


def test_a_view_that_is_sent_takes_8_bytes_a_record(synthetic: Synthetic) -> None:
    records = Records(synthetic(33))
    _ = records.table
    large = records.take(np.zeros(100_000, int))
    assert len(pickle.dumps(large)) - len(pickle.dumps(records)) < 8.1 * 100_000


def test_views_share_one_open_directory(synthetic: Synthetic) -> None:
    import os

    records = Records(synthetic(33))
    before = len(os.listdir("/proc/self/fd"))
    views = [records.take([place]) for place in range(33)]
    assert [int(view[0][0][0, 0, 0]) for view in views] == list(range(33))
    # Two for each of the three shards.
    assert len(os.listdir("/proc/self/fd")) - before <= 6


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    chosen=st.lists(st.integers(0, 32), min_size=1, max_size=50),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    prefetch=st.integers(0, 2),
)
def test_both_readers_give_each_position_of_a_view_once(
    synthetic: Synthetic, chosen: list[int], batch_size: int, shuffle: bool, prefetch: int
) -> None:
    view = Records(synthetic(33)).take(chosen)
    arguments: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "seed": 3, "positions": True}
    batches = iterate_batches(view, prefetch=prefetch, **arguments)
    dataset = make_dataset(view, **arguments)
    for epoch in range(2):
        order = permute(np.arange(len(chosen)), len(chosen), 3, epoch) if shuffle else np.arange(len(chosen))
        for found in (list(batches), list(dataset.as_numpy_iterator())):
            positions = np.concatenate([batch[2] for batch in found])
            assert positions.dtype == np.int64
            assert positions.tolist() == order.tolist()
            pixels = np.concatenate([batch[0] for batch in found])[:, 0, 0, 0]
            assert pixels.tolist() == [chosen[position] for position in positions]


def test_the_split_of_a_selection_is_chosen_before(synthetic: Synthetic) -> None:
    for reader in (iterate_batches, make_dataset):
        with pytest.raises(RecordsError, match="split is 'train', but records is a Records object: choose its split"):
            reader(Records(synthetic(33)), "train")


def test_an_empty_view_has_no_batches(synthetic: Synthetic) -> None:
    with pytest.raises(RecordsError, match="there are no records to make batches of"):
        iterate_batches(Records(synthetic(33)).take([]))


def test_a_state_continues_in_the_middle_of_an_epoch(synthetic: Synthetic) -> None:
    def batches(**arguments: Any) -> Any:
        return iterate_batches(synthetic(33), batch_size=4, seed=5, positions=True, **arguments)

    def rest(iterator: Any) -> list[int]:
        return [position for batch in iterator for position in batch[2].tolist()]

    whole = batches()
    epochs = [rest(whole) for _ in range(3)]
    for stop, prefetch in itertools.product((0, 1, 8, 9), (0, 2)):
        first = batches(prefetch=prefetch)
        rest(first)
        given = rest(itertools.islice(first, stop))
        state = json.loads(json.dumps(first.state_dict()))
        again = batches(prefetch=prefetch)
        again.load_state_dict(state)
        if stop == 9:
            assert len(again) == 9
            assert given == epochs[1]
            assert rest(again) == epochs[2]
        else:
            assert len(again) == 9 - stop
            assert given + rest(again) == epochs[1]
            assert rest(again) == epochs[2]


def test_a_state_continues_with_another_number_of_workers_and_batch_size(synthetic: Synthetic) -> None:
    def batches(index: int, workers: int, batch_size: int) -> Any:
        return iterate_batches(synthetic(33), batch_size=batch_size, positions=True, shard=(index, workers))

    before = [batches(index, 3, 2) for index in range(3)]
    given = [batch[2].tolist() for worker in before for batch in itertools.islice(worker, 2)]
    states = [worker.state_dict() for worker in before]
    assert states == [states[0]] * 3
    after = [batches(index, 2, 5) for index in range(2)]
    for worker in after:
        worker.load_state_dict(states[0])
    given += [batch[2].tolist() for worker in after for batch in worker]
    positions = list(itertools.chain.from_iterable(given))
    # One is left over: 33 - 3 workers x 2 batches of 2 = 21, an odd number for two workers.
    assert len(set(positions)) == len(positions) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "the state has seed 1, 0 expected"),
        ({"records": 16}, "the state has records 16, 33 expected"),
        ({"shuffle": False}, "the state has shuffle False, True expected"),
        ({"epoch": -1}, "epoch is -1, at least 0 expected"),
        ({"given": 34}, "the state has given 34, at most 33 expected"),
    ],
)
def test_a_state_of_another_order_is_refused(synthetic: Synthetic, change: dict, message: str) -> None:
    batches = iterate_batches(synthetic(33))
    with pytest.raises(RecordsError, match=message):
        batches.load_state_dict({**batches.state_dict(), **change})


@pytest.mark.parametrize("state", [None, [], "x", 5])
def test_what_is_no_mapping_is_no_state(synthetic: Synthetic, state: Any) -> None:
    with pytest.raises(TypeError, match=rf"the state is of type {type(state).__name__}, what state_dict\(\) returned"):
        iterate_batches(synthetic(33)).load_state_dict(state)


def test_the_package_prints_what_a_directory_holds(phantom_records: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pipeline", str(phantom_records)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for study in DatasetInfo.load(phantom_records).studies:
        assert study in result.stdout
    assert "256 × 256" in result.stdout
    assert "int16" in result.stdout


def test_a_reader_that_leaves_and_a_terminal_without_unicode_are_no_errors(phantom_records: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pipeline", str(phantom_records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    assert "images 256 ? 256" in shown


def test_a_directory_without_records_is_reported_in_one_line(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pipeline", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 1
    assert "not a complete records directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1
