import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pipeline import iterate_batches, make_dataset
from pipeline.memory import ReusedMemory

from .helpers import ROOT
from .helpers.synthetic import Synthetic


def test_memory_is_used_again_when_its_array_is_gone() -> None:
    memory = ReusedMemory()
    first = memory.array((3, 5), np.int16)
    address = first.ctypes.data
    del first
    again = memory.array((5, 3), np.int16)
    assert again.ctypes.data == address
    assert again.shape == (5, 3)
    assert again.dtype == np.dtype(np.int16)
    assert again.flags.writeable


def test_memory_that_a_view_still_uses_is_not_given_again() -> None:
    memory = ReusedMemory()
    kept = []
    for number in range(20):
        array = memory.array((4, 1000), np.float32)
        array[:] = number
        # Views of views, of each kind that a library may make.
        kept.append((array[1:], array.T, array.reshape(-1).view(np.uint8), array[0])[number % 4])
    del array
    for one, other in itertools.combinations(kept, 2):
        assert not np.shares_memory(one, other)
    for number, view in enumerate(kept):
        assert (view.view(np.float32) == number).all()


def test_arrays_of_other_sizes_get_their_own_memory() -> None:
    memory = ReusedMemory()
    small = memory.array((10,), np.uint8)
    del small
    assert memory.array((1000,), np.uint8).nbytes == 1000


def test_tensors_that_are_kept_do_not_change(synthetic: Synthetic) -> None:
    """Although the memory of others is used again meanwhile. Pixels of 64 bytes and more are not copied."""
    directory = synthetic(33, shape=(64, 64))
    expected = [images for images, _ in iterate_batches(directory, batch_size=2, epochs=12)]
    kept = []
    for step, (images, _) in enumerate(make_dataset(directory, batch_size=2, epochs=12)):
        if step % 7 == 0:
            kept.append((step, images))
    gc.collect()
    assert len(kept) > 20
    for step, images in kept:
        assert np.array_equal(images, expected[step])


def test_a_data_set_that_is_made_while_a_function_is_traced_says_what_to_do(synthetic: Synthetic) -> None:
    directory = synthetic(16)
    repeated = tf.data.Dataset.range(2).flat_map(lambda _: make_dataset(directory))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"make it outside of tf\.function"):
        list(repeated)


@pytest.mark.parametrize("steps", [1, 30])
def test_a_process_ends_while_an_iterator_reads_ahead(synthetic: Synthetic, steps: int) -> None:
    code = f"""
from pipeline import make_dataset
iterator = make_dataset({str(synthetic(33, shape=(256, 256)))!r}, batch_size=2, epochs=None).as_numpy_iterator()
for _ in range({steps}):
    next(iterator)
print("read")
"""
    # A process that hangs never ends; the time is only for a failing test.
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    assert (result.returncode, result.stdout) == (0, "read\n")
