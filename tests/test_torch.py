"""``pipeline.torch`` and ``Records`` with PyTorch's ``DataLoader`` and torchdata's ``StatefulDataLoader``."""

import copy
import gc
import json
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline import DatasetInfo, Records, RecordsError, iterate_batches

from .helpers.documents import environment
from .helpers.synthetic import Synthetic, synthetic_arrays

torch = pytest.importorskip("torch", reason="make test-clients installs it")
BatchDataset = pytest.importorskip("pipeline.torch").BatchDataset
DataLoader = torch.utils.data.DataLoader

pytestmark = [
    pytest.mark.clients,
    # TensorFlow, which writes the records, has threads when PyTorch forks; from Python 3.12 on, that is a warning.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # On a machine with fewer cores than workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # torchdata calls it.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]

COUNT = 37
"""Records; with batches of 4, an epoch has 10 batches, the last of which is short."""


def numbers(batches: Iterable[Any]) -> list[list[int]]:
    """The records of each batch: the first pixel of a synthetic image is its number."""
    return [batch[0][:, 0, 0, 0].tolist() for batch in batches]


def epochs(path: pathlib.Path, *wanted: int) -> list[list[list[int]]]:
    """The batches of some epochs, by ``iterate_batches``."""
    return [numbers(iterate_batches(path, batch_size=4, start_step=10 * epoch)) for epoch in wanted]


@pytest.mark.parametrize(
    ("num_workers", "options"),
    [
        (0, {}),
        (1, {}),
        (2, {}),
        (2, {"prefetch_factor": 1}),
        (2, {"prefetch_factor": 7, "persistent_workers": True}),
        (3, {"persistent_workers": True}),
        (12, {}),
        (2, {"multiprocessing_context": "spawn"}),
        (2, {"multiprocessing_context": "spawn", "persistent_workers": True}),
    ],
)
def test_each_iteration_of_a_loader_is_the_next_epoch_whatever_its_workers(
    synthetic: Synthetic, num_workers: int, options: dict[str, Any]
) -> None:
    context = {"multiprocessing_context": "fork"} if num_workers else {}
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    loader = DataLoader(data, batch_size=None, num_workers=num_workers, **{**context, **options})
    assert len(loader) == len(data) == 10
    found = [numbers(loader) for _ in range(3)]
    assert found == epochs(synthetic(COUNT), 0, 1, 2)
    assert found[0] != found[1] != found[2]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shuffle": False},
        {"seed": 3, "drop_remainder": True},
        {"standardize": True, "positions": True, "check_crc": False},
        {"image_dtype": None, "shard": (1, 3), "start_step": 5},
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_tensors_have_what_the_arrays_of_iterate_batches_have(
    synthetic: Synthetic, arguments: dict[str, Any], dtype: str, num_workers: int
) -> None:
    path = synthetic(COUNT, dtype=dtype)
    data = BatchDataset(path, "train", 4, **arguments)
    found = list(DataLoader(data, batch_size=None, num_workers=num_workers))
    expected = list(iterate_batches(path, "train", 4, **arguments))
    assert len(found) == len(expected)
    assert len(data) == len(iterate_batches(path, "train", 4, **{**arguments, "start_step": 0}))
    for tensors, arrays in zip(found, expected, strict=True):
        assert len(tensors) == len(arrays)
        for tensor, array in zip(tensors, arrays, strict=True):
            assert isinstance(tensor, torch.Tensor)
            assert tensor.numpy().dtype == array.dtype
            assert np.array_equal(tensor.numpy(), array)


def test_a_view_is_read(synthetic: Synthetic) -> None:
    view = Records(synthetic(COUNT)).take([5, 5, 1])
    loader = DataLoader(BatchDataset(view, shuffle=False), batch_size=None, num_workers=2)
    assert numbers(loader) == [[5, 5, 1]]


def test_skipped_batches_are_not_read_and_a_damaged_one_is_named(synthetic: Synthetic, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records"
    shutil.copytree(synthetic(COUNT), path)
    shard = path / DatasetInfo.load(path).splits["train"].shards[0].name
    content = bytearray(shard.read_bytes())
    content[60] ^= 1
    shard.write_bytes(content)
    # Record 0 is damaged. It is in batch 0, which worker 0 reads.
    loader = DataLoader(BatchDataset(path, batch_size=4, shuffle=False), batch_size=None, num_workers=2)
    with pytest.raises(RecordsError, match="record 0 at byte 0: CRC-32C does not match"):
        list(loader)
    data = BatchDataset(path, batch_size=4, shuffle=False, start_step=1)
    assert numbers(DataLoader(data, batch_size=None, num_workers=2)) == [
        list(range(first, min(first + 4, COUNT))) for first in range(4, COUNT, 4)
    ]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_that_is_left_early_counts_even_if_the_seed_is_set_again(
    synthetic: Synthetic, num_workers: int, persistent: bool
) -> None:
    loader = DataLoader(
        BatchDataset(synthetic(COUNT), batch_size=4),
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=persistent and num_workers > 0,
    )
    for epoch in epochs(synthetic(COUNT), 0, 1, 2):
        torch.manual_seed(0)
        assert numbers([next(iter(loader))]) == epoch[:1]
    torch.manual_seed(0)
    assert [numbers(loader)] == epochs(synthetic(COUNT), 3)


class Fault:
    """A ``worker_init_fn`` that fails in worker 1, before it iterates, while ``present``."""

    present = True

    def __call__(self, worker: int) -> None:
        if self.present and worker == 1:
            raise OSError("worker 1 fails")


@pytest.mark.parametrize("alike", [False, True])
def test_workers_agree_on_the_epoch_after_one_of_them_failed(synthetic: Synthetic, alike: bool) -> None:
    fault = Fault()
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    loader = DataLoader(data, batch_size=None, num_workers=2, worker_init_fn=fault)

    def fail() -> None:
        torch.manual_seed(0)
        with pytest.raises(OSError, match="worker 1 fails"):
            list(loader)

    fail()
    # Ends the workers.
    gc.collect()
    fault.present = False
    torch.manual_seed(0 if alike else 1)
    assert [numbers(loader)] == epochs(synthetic(COUNT), 1)


def test_two_iterations_whose_workers_cannot_be_distinguished_are_an_error(synthetic: Synthetic) -> None:
    fault = Fault()
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    loader = DataLoader(data, batch_size=None, num_workers=2, worker_init_fn=fault)
    torch.manual_seed(0)
    unfinished = iter(loader)
    assert numbers([next(unfinished)]) == epochs(synthetic(COUNT), 0)[0][:1]
    fault.present = False
    torch.manual_seed(0)
    with pytest.raises(RecordsError, match="start at the same time and with the same random seed"):
        list(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_iterations_at_the_same_time_are_two_epochs(synthetic: Synthetic, num_workers: int) -> None:
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    loaders = [DataLoader(data, batch_size=None, num_workers=number) for number in (num_workers, num_workers, 1)]
    iterators = [iter(loader) for loader in loaders]
    found = [numbers(batches) for batches in zip(*zip(*iterators, strict=True), strict=True)]
    assert sorted(found) == sorted(epochs(synthetic(COUNT), 0, 1, 2))
    assert [numbers(loaders[0])] == epochs(synthetic(COUNT), 3)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_set_epoch_sets_the_next_one(synthetic: Synthetic, num_workers: int, persistent: bool) -> None:
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    loader = DataLoader(
        data, batch_size=None, num_workers=num_workers, persistent_workers=persistent and num_workers > 0
    )
    found = []
    for epoch in (2, None, 0):
        if epoch is not None:
            data.set_epoch(epoch)
        found.append(numbers(loader))
    assert found == epochs(synthetic(COUNT), 2, 3, 0)
    with pytest.raises(RecordsError, match="epoch is -1, at least 0 expected"):
        data.set_epoch(-1)
    with pytest.raises(TypeError, match="epoch is 'a', a whole number expected"):
        data.set_epoch("a")


def set_epoch_in_a_worker(worker: int) -> None:
    torch.utils.data.get_worker_info().dataset.set_epoch(1)


def test_set_epoch_in_a_worker_is_refused(synthetic: Synthetic) -> None:
    loader = DataLoader(
        BatchDataset(synthetic(COUNT)), batch_size=None, num_workers=2, worker_init_fn=set_epoch_in_a_worker
    )
    with pytest.raises(RecordsError, match="call it in the process that trains"):
        list(loader)


def test_a_copy_counts_from_where_the_original_was(synthetic: Synthetic) -> None:
    data = BatchDataset(synthetic(COUNT), batch_size=4)
    list(data)
    copies = [copy.deepcopy(data), pickle.loads(pickle.dumps(data))]
    assert [numbers(one) for one in (data, data, *copies)] == epochs(synthetic(COUNT), 1, 2, 1, 1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_have_disjoint_shares_of_equal_length(
    synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    for given in (True, False):
        shares = []
        for rank in range(world_size):
            monkeypatch.setenv("RANK", str(rank))
            data = BatchDataset(synthetic(COUNT), batch_size=4, shard=(rank, world_size) if given else None)
            loader = DataLoader(data, batch_size=None, num_workers=2)
            shares.append([numbers(loader), numbers(loader)])
            assert len(data) == len(shares[0][0])
        for epoch in zip(*shares, strict=True):
            lengths = [[len(batch) for batch in share] for share in epoch]
            assert all(length == lengths[0] for length in lengths)
            records = [number for share in epoch for batch in share for number in batch]
            assert len(set(records)) == len(records) == COUNT // world_size * world_size


DISTRIBUTED = """
import json
import sys
import torch
from pipeline import RecordsError
from pipeline.torch import BatchDataset

if __name__ == "__main__":
    path, rendezvous, rank, output = sys.argv[1:]
    early = BatchDataset(path)
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=int(rank), world_size=2)
    data = BatchDataset(path, batch_size=4, positions=True)
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context="spawn", persistent_workers=True
    )
    found = [[positions.tolist() for _, _, positions in loader] for _ in range(2)]
    for number in (0, 2):
        try:
            list(torch.utils.data.DataLoader(early, batch_size=None, num_workers=number))
        except RecordsError as error:
            found.append(str(error))
    with open(output, "w") as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()
"""


@pytest.fixture
def temporary() -> Iterator[pathlib.Path]:
    """A folder whose path is short enough for the sockets of PyTorch's workers in it."""
    with tempfile.TemporaryDirectory() as path:
        yield pathlib.Path(path)


def test_processes_of_torch_distributed_have_disjoint_shares(
    synthetic: Synthetic, tmp_path: pathlib.Path, temporary: pathlib.Path
) -> None:
    path = synthetic(COUNT)
    program = tmp_path / "program.py"
    program.write_text(DISTRIBUTED)
    variables = {**environment(tmp_path / "bin"), "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(temporary)}
    outputs = [tmp_path / f"{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, program, path, tmp_path / "rendezvous", str(rank), output], env=variables)
        for rank, output in enumerate(outputs)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    for rank, output in enumerate(outputs):
        *shares, error, same_error = json.loads(output.read_text())
        batches = iterate_batches(path, batch_size=4, shard=(rank, 2), positions=True)
        assert shares == [[positions.tolist() for _, _, positions in batches] for _ in range(2)]
        assert f"made for (rank, world_size) = (0, 1), but this process has ({rank}, 2)" in error
        assert error in same_error
    assert not list(temporary.glob("cardiac*"))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("given", [0, 1, 7, 9, 10, 11])
def test_a_stateful_loader_resumes_where_it_was_saved(
    synthetic: Synthetic, num_workers: int, persistent: bool, given: int
) -> None:
    """In epoch 1, after a number of batches; 10 are all of them, and 11 stand for the end of the loop."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="make test-clients installs it")
    path = synthetic(COUNT)

    def loader_of(data: Any) -> Any:
        return stateful.StatefulDataLoader(
            data,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
        )

    loader = loader_of(BatchDataset(path, batch_size=4))
    expected = epochs(path, 0, 1, 2, 3)
    assert numbers(loader) == expected[0]
    iterator = iter(loader)
    found = numbers(next(iterator) for _ in range(min(given, 10)))
    if given == 11:
        assert next(iterator, None) is None
    state = json.loads(json.dumps(loader.state_dict()))

    # In another process, with an object that has not counted so far; and in this one, from a later point.
    later = BatchDataset(path, batch_size=4)
    later.set_epoch(7)
    for data in (BatchDataset(path, batch_size=4), later):
        resumed = loader_of(data)
        resumed.load_state_dict(state)
        rest = [numbers(resumed) for _ in range(3)]
        if given == 11:
            assert [found, *rest[:2]] == expected[1:]
        else:
            assert [found + rest[0], *rest[1:]] == expected[1:]


def test_a_state_of_another_order_is_refused(synthetic: Synthetic) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="make test-clients installs it")
    loader = stateful.StatefulDataLoader(BatchDataset(synthetic(COUNT), batch_size=4), batch_size=None, num_workers=2)
    next(iter(loader))
    state = loader.state_dict()
    for argument, message in (
        ({"batch_size": 5}, "the state has batch_size 4, 5 expected"),
        ({"batch_size": 4, "seed": 1}, "the state has seed 0, 1 expected"),
        ({"batch_size": 4, "shard": (0, 2)}, r"the state has shard \[0, 1\], \[0, 2\] expected"),
    ):
        other = stateful.StatefulDataLoader(BatchDataset(synthetic(COUNT), **argument), batch_size=None, num_workers=2)
        other.load_state_dict(state)
        with pytest.raises(RecordsError, match=message):
            list(other)


def test_start_step_resumes_with_another_number_of_workers(synthetic: Synthetic) -> None:
    """The loop counts the batches that it received."""
    path = synthetic(COUNT)
    first = DataLoader(BatchDataset(path, batch_size=4), batch_size=None, num_workers=2)
    found = [*numbers(first)]
    iterator = iter(first)
    found += numbers(next(iterator) for _ in range(3))
    resumed = DataLoader(BatchDataset(path, batch_size=4, start_step=len(found)), batch_size=None, num_workers=3)
    found += [*numbers(resumed), *numbers(resumed)]
    assert found == [batch for epoch in epochs(path, 0, 1, 2) for batch in epoch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_records_are_a_map_style_data_set(synthetic: Synthetic, num_workers: int) -> None:
    records = Records(synthetic(COUNT))
    assert [image[0, 0, 0] for image, _ in records.__getitems__([3, 0, 3])] == [3, 0, 3]
    loader = DataLoader(records, batch_size=8, shuffle=True, num_workers=num_workers)
    assert len(loader) == 5
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for images, masks in loader:
        assert images.dtype == torch.float32
        assert masks.dtype == torch.bool
        for image, mask in zip(images.numpy(), masks.numpy(), strict=True):
            found[int(image[0, 0, 0])] = image, mask
    images, masks = synthetic_arrays(COUNT)
    assert sorted(found) == list(range(COUNT))
    for number, (image, mask) in found.items():
        assert np.array_equal(image[..., 0], images[number])
        assert np.array_equal(mask[..., 0], masks[number])


def test_an_environment_without_pytorch_is_reported() -> None:
    code = "import sys; sys.modules['torch'] = None; import pipeline.torch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ModuleNotFoundError: pipeline.torch needs PyTorch: pip install torch" in result.stderr
