"""A shard that another process cuts, empties or opens for writing while it is mapped."""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers.synthetic import Synthetic

SHARDS = 2


@pytest.fixture
def directory(synthetic: Synthetic, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of records in two shards of a megabyte, on a file system that gives leases."""
    copy = shutil.copytree(synthetic(40, shape=(120, 110), num_shards=SHARDS), tmp_path / "records")
    with (copy / "manifest.json").open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            pytest.skip(f"the system gives no lease on files in {tmp_path}: {error.strerror}")
    return copy


def ended(script: str, *arguments: object) -> tuple[int, str]:
    """The exit status of a script, and what it printed; in a process of its own, because a signal may end it."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, check=False, cwd=ROOT, timeout=PATIENCE_SECONDS, capture_output=True, text=True)
    return result.returncode, result.stderr


_WAITS = """
import os, subprocess, sys
from pipeline import DatasetInfo, RecordsError
from pipeline.directory import RecordsDirectory
from pipeline.shards import Shards

path, change, name = sys.argv[1], sys.argv[2], "lv-train.tfrecord-00000-of-00002"
shards = Shards(RecordsDirectory(path), [name])
shard, file = shards[0], os.path.join(path, name)
size, total = os.path.getsize(file), int(shard.octets.sum())
other = subprocess.Popen([sys.executable, "-c", f"import os; {change.format(repr(file))}"])
while True:
    try:
        shards[0]
    except RecordsError as error:
        assert f"{name}: the shard is being changed by another process" in str(error), error
        break
# The other process waits, as long as this map is in use.
assert other.poll() is None
assert os.path.getsize(file) == size
assert int(shard.octets.sum()) == total
del shard
assert other.wait() == 0
try:
    shards[0]
except RecordsError as error:
    assert "the shard changed after it was opened" in str(error), error
else:
    raise AssertionError("the change is not seen")
"""


@pytest.mark.parametrize(
    "change",
    [
        "os.truncate({}, 100)",
        "open({}, 'wb').close()",
        "file = open({}, 'r+b'); file.truncate(100)",
        "file = open({}, 'ab'); file.write(b'more')",
    ],
)
def test_who_wants_to_change_a_shard_waits_until_it_is_unmapped(directory: pathlib.Path, change: str) -> None:
    assert ended(_WAITS, directory, change) == (0, "")


_READS_ON = """
import os, subprocess, sys
from pipeline import RecordsError, iterate_batches

path, prefetch, cut, whole = sys.argv[1], int(sys.argv[2]), {}, 0
names = [name for name in os.listdir(path) if name.endswith("-of-00002")]
for name in names:
    with open(os.path.join(path, name), "rb") as file:
        cut[name] = file.read()
for turn in range(int(sys.argv[3])):
    name = sorted(names)[turn % 2]
    # Large batches: the cut comes while one is copied, and seldom between the check and the copy.
    batches = iter(iterate_batches(path, batch_size=40, epochs=None, prefetch=prefetch))
    next(batches)
    code = f"import os, time; time.sleep({turn % 7} / 1000); os.truncate({os.path.join(path, name)!r}, 100)"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        for images, masks in batches:
            pass
    except RecordsError as error:
        assert name in str(error), error
        assert "the shard is being changed" in str(error) or "the shard changed" in str(error), error
    del batches
    assert other.wait() == 0
    copy = os.path.join(path, "copy")
    with open(copy, "wb") as file:
        file.write(cut[name])
    os.replace(copy, os.path.join(path, name))
"""


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_reader_whose_shard_is_cut_raises_an_error_and_is_not_ended(directory: pathlib.Path, prefetch: int) -> None:
    assert ended(_READS_ON, directory, prefetch, 15) == (0, "")


def test_a_shard_that_is_open_for_writing_is_read_without_a_lease(directory: pathlib.Path) -> None:
    from pipeline import Records

    expected = Records(directory)[:]
    with next(directory.glob("*-00000-of-*")).open("r+b"):
        found = Records(directory)[:]
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))


_FORKS = """
import multiprocessing, os, sys
from pipeline import Records

def read(records, begin, done):
    begin.wait()
    before = records[:]
    done.set()

if __name__ == "__main__":
    records = Records(sys.argv[1])
    records[:]
    context = multiprocessing.get_context("fork")
    begin, done = context.Event(), context.Event()
    child = context.Process(target=read, args=(records, begin, done))
    child.start()
    # What this process closes leaves the child's maps, and the lease on them, as they are.
    del records
    begin.set()
    child.join()
    assert child.exitcode == 0 and done.is_set()
    # Nobody has a map now, so nothing waits.
    for name in os.listdir(sys.argv[1]):
        descriptor = os.open(os.path.join(sys.argv[1], name), os.O_WRONLY | os.O_NONBLOCK)
        os.close(descriptor)
"""


def test_a_lease_lasts_until_the_last_process_has_closed_its_map(directory: pathlib.Path) -> None:
    assert ended(_FORKS, directory) == (0, "")


def test_readers_of_several_processes_have_leases_at_the_same_time(directory: pathlib.Path) -> None:
    from pipeline.directory import RecordsDirectory
    from pipeline.shards import Shards

    name = next(directory.glob("*-00000-of-*")).name
    leases = [Shards(RecordsDirectory(directory), [name])[0] for _ in range(2)]
    assert all(shard.leased is not None and not shard.is_wanted for shard in leases)
    with pytest.raises(BlockingIOError):
        os.open(directory / name, os.O_WRONLY | os.O_NONBLOCK)
    assert all(shard.is_wanted for shard in leases)
