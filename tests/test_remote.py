"""Records in a store, read from a cache. URLs of files need no server; the tests marked ``clients`` start one."""

import collections
import contextlib
import datetime
import fcntl
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pytest

import pipeline.__main__
from pipeline import DatasetInfo, Records, RecordsError, iterate_batches, make_dataset, verify
from pipeline.cache import Cache
from pipeline.directory import FileInfo

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers import stores as served
from .helpers.stores import BUCKET, KEY, SECRET, Fault, Proxy
from .helpers.synthetic import Synthetic

COUNT, SHARDS = 120, 6

# Their own imports use deprecated parts of the standard library, and they leave connections open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*so a shuffled epoch fetches up to:UserWarning"),
]


@pytest.fixture
def local(synthetic: Synthetic) -> pathlib.Path:
    """Records in six shards of one size."""
    return synthetic(COUNT, shape=(60, 50), num_shards=SHARDS)


@pytest.fixture
def url(local: pathlib.Path) -> str:
    """The URL of the same records."""
    pytest.importorskip("fsspec", reason="make test-clients installs it")
    return f"file://{local}"


@pytest.fixture
def fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each file that is fetched by the fixture ``url``, in order."""
    from fsspec.implementations.local import LocalFileSystem

    names: list[str] = []
    cat_file = LocalFileSystem.cat_file

    def counted(self: Any, path: str, **limits: Any) -> Any:
        names.append(pathlib.PurePosixPath(path).name)
        return cat_file(self, path, **limits)

    monkeypatch.setattr(LocalFileSystem, "cat_file", counted)
    return names


def shards_of(local: pathlib.Path) -> tuple[Any, ...]:
    return DatasetInfo.load(local).splits["train"].shards


def shard_files(names: list[str]) -> dict[str, int]:
    """How often each shard was fetched."""
    return dict(collections.Counter(name for name in names if re.search(r"-of-\d{5}$", name)))


def room_for(local: pathlib.Path, shards: int) -> int:
    """Bytes of that many shards and some more, but not of the table and the indexes, too."""
    return shards * max(shard.bytes for shard in shards_of(local)) + 1


def cached_bytes(cache: pathlib.Path) -> int:
    """Bytes of the files in a cache, whole or not."""
    sizes = {}
    with (cache / "lock").open("w") as lock:
        # Nothing is removed and no part gets its size meanwhile; one that is renamed may be seen twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in cache.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                sizes[state.st_ino] = state.st_size
        fcntl.flock(lock, fcntl.LOCK_UN)
    return sum(sizes.values())


def mapped_bytes(cache: pathlib.Path) -> int:
    """Bytes of removed files of a cache that this process has mapped."""
    total = 0
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if str(cache) in line and line.endswith("(deleted)"):
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            total += end - begin
    return total


def epochs(records: Any, read: Callable[..., Any] = iterate_batches, **arguments: Any) -> list[tuple[np.ndarray, ...]]:
    batches = read(records, epochs=2, positions=True, **arguments)
    return [tuple(map(np.asarray, batch)) for batch in batches]


def assert_equal(found: list[tuple[np.ndarray, ...]], expected: list[tuple[np.ndarray, ...]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for array, same in zip(one, other, strict=True):
            assert array.dtype == same.dtype
            assert np.array_equal(array, same)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("read", [iterate_batches, make_dataset])
def test_a_cache_for_everything_fetches_each_file_once(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path, read: Callable[..., Any], shuffle: bool
) -> None:
    records = Records(url, cache_dir=tmp_path)
    assert_equal(epochs(records, read, shuffle=shuffle), epochs(local, read, shuffle=shuffle))
    assert set(collections.Counter(fetched).values()) == {1}
    assert shard_files(fetched) == {shard.name: 1 for shard in shards_of(local)}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("read", [iterate_batches, make_dataset])
def test_a_small_cache_is_enough_and_never_exceeded(
    local: pathlib.Path,
    url: str,
    fetched: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[..., Any],
    shards: int,
    shuffle: bool,
) -> None:
    limit = room_for(local, shards)
    uses, removed = [], []
    records = Records(url, cache_dir=tmp_path, cache_bytes=limit)

    def measured(descriptor: int) -> None:
        # When a file is complete, the cache is as full as it gets.
        uses.append(cached_bytes(tmp_path))
        removed.append(mapped_bytes(tmp_path))

    monkeypatch.setattr(os, "fsync", measured)
    assert_equal(epochs(records, read, shuffle=shuffle), epochs(local, read, shuffle=shuffle))
    assert len(uses) >= 2 * SHARDS - shards
    assert max(uses) <= limit
    # A thread may be about to end that has mapped one. At the end, one removed file may still take space on the disk: a
    # reader that maps a shard just while another thread removes it keeps it until it reads again.
    assert max(removed) <= 2 * room_for(local, 1) + 4096
    wait_until(lambda: mapped_bytes(tmp_path) <= room_for(local, 1) + 4096)
    if read is iterate_batches and not shuffle:
        # Both epochs read the shards in order, so none is there when it is needed again.
        assert shard_files(fetched) == {shard.name: 2 for shard in shards_of(local)}


@pytest.mark.parametrize("read", [iterate_batches, make_dataset])
def test_a_cache_that_is_too_small_for_a_shuffled_epoch_is_a_warning_with_what_it_costs(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path, read: Callable[..., Any]
) -> None:
    sizes = [shard.bytes for shard in shards_of(local)]
    records = Records(url, cache_dir=tmp_path, cache_bytes=room_for(local, 2))
    with pytest.warns(
        UserWarning, match=rf"^{url}: .* in shards of {sum(sizes)} .*cache_bytes={sum(sizes)} or"
    ) as all_:
        batches = read(records)
    (one,) = all_
    assert one.filename == __file__
    said = re.search(r"up to (\d+) times as much", str(one.message))
    assert said
    for _ in batches:
        pass
    # make_dataset reads several batches together, and fetches a shard once for them.
    least = 0.7 * int(said[1]) if read is iterate_batches else 1
    assert least < sum(shard_files(fetched).values()) / SHARDS < 1.3 * int(said[1])


def test_a_cache_that_is_large_enough_is_no_warning(local: pathlib.Path, url: str, tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = Records(url, cache_dir=tmp_path, cache_bytes=room_for(local, 2))
        assert len(iterate_batches(small, shuffle=False)) == COUNT // 8
        # The records of two shards only.
        assert len(iterate_batches(small.take(range(COUNT // SHARDS, 3 * COUNT // SHARDS)))) == 5
        whole = sum(shard.bytes for shard in shards_of(local))
        assert len(iterate_batches(Records(url, cache_dir=tmp_path, cache_bytes=whole))) == COUNT // 8


@pytest.mark.parametrize(("seconds", "least", "most"), [(PATIENCE_SECONDS, 0, SHARDS), (0, 3 * 15, 6 * 15)])
def test_uses_in_a_full_cache_are_recorded_now_and_then(
    local: pathlib.Path,
    url: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    least: int,
    most: int,
) -> None:
    monkeypatch.setattr("pipeline.shards._SECONDS_BETWEEN_USES", seconds)
    records = Records(url, cache_dir=tmp_path)
    records[:]
    uses: list[FileInfo] = []
    monkeypatch.setattr(Cache, "use", lambda self, file: uses.append(file))
    list(iterate_batches(records, prefetch=0))
    assert least <= len(uses) <= 2 * most
    assert {file.sha256 for file in uses} == {shard.sha256 for shard in shards_of(local)}


def test_a_later_reader_and_another_url_fetch_only_the_manifest(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path
) -> None:
    cache = tmp_path / "cache"
    epochs(Records(url, cache_dir=cache))
    copy = shutil.copytree(local, tmp_path / "copy")
    fetched.clear()
    for again in (url, f"file://{copy}"):
        assert_equal(epochs(Records(again, cache_dir=cache)), epochs(local))
    assert fetched == ["manifest.json", "manifest.json"]


def test_random_access_fetches_what_it_needs_alone(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path
) -> None:
    records, expected = Records(url, cache_dir=tmp_path), Records(local)
    for index in (0, slice(41, 43)):
        for found, same in zip(records[index], expected[index], strict=True):
            assert np.array_equal(found, same)
    assert shard_files(fetched) == {shards_of(local)[0].name: 1, shards_of(local)[2].name: 1}
    assert records.table.tobytes() == expected.table.tobytes()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_next_shard_is_fetched_while_one_is_read(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path
) -> None:
    """A reader that stops after the first batch already has the second shard, and with room for two no third one."""
    records = Records(url, cache_dir=tmp_path, cache_bytes=room_for(local, 2))
    batches = iter(iterate_batches(records, shuffle=False, batch_size=1, prefetch=0))
    next(batches)
    wait_until(lambda: len(shard_files(fetched)) == 2)
    time.sleep(0.2)
    assert shard_files(fetched) == {shards_of(local)[0].name: 1, shards_of(local)[1].name: 1}


def test_in_a_shuffled_epoch_shards_come_in_the_order_of_their_use(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    names = [shard.name for shard in shards_of(local)]
    (positions,) = [batch[2] for batch in iterate_batches(local, batch_size=COUNT, positions=True)]
    order = [names[number] for number in dict.fromkeys((positions // (COUNT // SHARDS)).tolist())]
    cat_file, may_arrive = LocalFileSystem.cat_file, threading.Event()

    def waiting(self: Any, path: str, **limits: Any) -> Any:
        content = cat_file(self, path, **limits)
        if pathlib.PurePosixPath(path).name in order[1:]:
            assert may_arrive.wait(PATIENCE_SECONDS)
        return content

    monkeypatch.setattr(LocalFileSystem, "cat_file", waiting)
    batches = iter(iterate_batches(Records(url, cache_dir=tmp_path), batch_size=1, prefetch=0))
    next(batches)
    # The first one, and four that are fetched at the same time.
    wait_until(lambda: len(shard_files(fetched)) == 5)
    assert set(shard_files(fetched)) == set(order[:5])
    may_arrive.set()
    assert len(list(batches)) == COUNT - 1


def test_a_changed_object_is_fetched_twice_and_named(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(local, tmp_path / "records")
    shard = copy / shards_of(local)[1].name
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    records = Records(f"file://{copy}", cache_dir=tmp_path / "cache")
    with pytest.raises(RecordsError, match=rf"{shard.name}: does not match the manifest, also when it is fetched aga"):
        epochs(records)
    # Twice for each batch that needs it; others may be prepared meanwhile.
    assert shard_files(fetched)[shard.name] % 2 == 0
    assert next(verify.faults(f"file://{copy}")) == f"file://{shard}: SHA-256 does not match the manifest"
    # Nothing of it stays in the cache.
    assert not list((tmp_path / "cache").glob("*.part"))


def test_what_arrives_damaged_once_is_fetched_again(
    local: pathlib.Path, url: str, fetched: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    records, cat_file, damaged = Records(url, cache_dir=tmp_path), LocalFileSystem.cat_file, set()

    def damaging(self: Any, path: str, **limits: Any) -> Any:
        content = cat_file(self, path, **limits)
        if path in damaged:
            return content
        damaged.add(path)
        match len(damaged) % 3:
            case 0:
                return content[: len(content) // 2] + bytes(1) + content[len(content) // 2 + 1 :]
            case 1:
                raise ConnectionResetError("cut")
            case _:
                return b""

    monkeypatch.setattr(LocalFileSystem, "cat_file", damaging)
    assert_equal(epochs(records), epochs(local))
    assert len(damaged) == SHARDS
    assert shard_files(fetched) == {shard.name: 2 for shard in shards_of(local)}


def test_an_incomplete_directory_is_refused_when_it_is_opened(
    local: pathlib.Path, url: str, tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(local, tmp_path / "records")
    shard = copy / shards_of(local)[4].name
    open_it = functools.partial(Records, f"file://{copy}", cache_dir=tmp_path / "cache")
    os.truncate(shard, 100)
    with pytest.raises(RecordsError, match=rf"{shard.name}: 100 bytes, \d+ bytes expected"):
        open_it()
    shard.unlink()
    with pytest.raises(RecordsError, match=rf"{shard.name}: missing"):
        open_it()
    (copy / "manifest.json").unlink()
    with pytest.raises(RecordsError, match=rf"file://{copy}/manifest.json: missing .*not a complete records directory"):
        open_it()


def test_a_bound_below_a_shard_is_an_error(local: pathlib.Path, url: str, tmp_path: pathlib.Path) -> None:
    most = room_for(local, 1) - 1
    with pytest.raises(RecordsError, match=rf"{most} bytes, but the cache holds at most {most - 1}; pass a larger"):
        Records(url, cache_dir=tmp_path, cache_bytes=most - 1)
    with pytest.raises(TypeError, match=r"cache_bytes is 1\.5, a whole number expected"):
        Records(url, cache_dir=tmp_path, cache_bytes=1.5)  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written_is_named(url: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=rf"{tmp_path}/file/cache: cannot be used as a cache .*pass a cache_dir"):
        Records(url, cache_dir=tmp_path / "file" / "cache")


def test_the_default_cache_is_that_of_the_user(
    url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    epochs(url)
    folder = tmp_path / "cardiac-lv-records"
    # The shards, their indexes, which are all the same, the table, and the lock.
    assert len(list(folder.iterdir())) == SHARDS + 3
    assert folder.stat().st_mode & 0o777 == 0o700


_IN_PROCESSES = """
import hashlib, multiprocessing, pickle, sys
from pipeline import Records, iterate_batches

def digests(records):
    return [hashlib.sha256(images.tobytes()).hexdigest() for images, masks in iterate_batches(records, epochs=2)]

if __name__ == "__main__":
    url, cache_dir, cache_bytes, method = sys.argv[1:]
    records = Records(url, cache_dir=cache_dir, cache_bytes=int(cache_bytes))
    here = digests(records)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(digests, [records] * 4) == [here] * 4
        if method == "fork":
            assert pool.map(digests, ["LOCAL"] * 1) == [here]
    assert digests(pickle.loads(pickle.dumps(records))) == here
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_with_a_copy(local: pathlib.Path, url: str, tmp_path: pathlib.Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(_IN_PROCESSES.replace("LOCAL", os.fspath(local)))
    command = [sys.executable, str(script), url, str(tmp_path / "cache"), str(room_for(local, 2)), method]
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    result = subprocess.run(command, check=False, cwd=ROOT, env=environment, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0


def _fetch_once(folder: pathlib.Path, content: bytes, log: pathlib.Path, limit: int) -> bytes:
    import hashlib

    def fetch(file: BinaryIO) -> None:
        with log.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        file.write(content)

    digest = hashlib.sha256(content).hexdigest()
    with Cache(folder, limit).open(FileInfo(len(content), digest), fetch) as file:
        return file.read()


def test_of_several_processes_that_need_a_file_one_fetches_it(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_fetch_once, [(tmp_path / "cache", b"content", log, 100)] * 4, chunksize=1)
    assert found == [b"content"] * 4
    assert len(log.read_text().splitlines()) == 1


def test_processes_wait_for_room_and_never_exceed_the_bound(tmp_path: pathlib.Path) -> None:
    contents = [bytes([number]) * 60 for number in range(6)]
    arguments = [(tmp_path / "cache", content, tmp_path / "log", 100) for content in contents]
    uses, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if (tmp_path / "cache").exists():
                uses.append(cached_bytes(tmp_path / "cache"))

    with multiprocessing.get_context("spawn").Pool(3) as pool:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert pool.starmap(_fetch_once, arguments, chunksize=1) == contents
        finally:
            done.set()
            watcher.join()
    assert 60 in uses
    assert max(uses) <= 100


def _killed(folder: pathlib.Path) -> None:
    def fetch(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    Cache(folder, 100).open(FileInfo(60, 64 * "a"), fetch)


def test_what_a_killed_process_left_is_removed(tmp_path: pathlib.Path) -> None:
    cache = Cache(tmp_path, 100)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert (tmp_path / f"{64 * 'a'}.part").stat().st_size == 60

    def fetch(file: BinaryIO) -> None:
        file.write(bytes(60))

    cache.open(FileInfo(60, 64 * "b"), fetch).close()
    assert {path.name for path in tmp_path.iterdir()} == {64 * "b", "lock"}


def test_pipes_links_and_folders_with_the_name_of_a_file_are_left_alone(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "precious"
    other.write_bytes(b"precious")
    folder = tmp_path / "cache"
    cache = Cache(folder, 100)
    os.mkfifo(folder / f"{64 * 'a'}.part")
    os.mkfifo(folder / (64 * "b"))
    (folder / f"{64 * 'c'}.part").symlink_to(other)
    (folder / f"{64 * 'd'}.part").mkdir()
    before = {path.name for path in folder.iterdir()}

    def fetch(file: BinaryIO) -> None:
        file.write(bytes(60))

    cache.open(FileInfo(60, 64 * "e"), fetch).close()
    assert {path.name for path in folder.iterdir()} == before | {64 * "e", "lock"}
    # The first of these is the file that is to be fetched: it must not be written through the link.
    with pytest.raises(RecordsError, match="cannot be used as a cache"):
        cache.open(FileInfo(60, 64 * "c"), fetch)
    assert other.read_bytes() == b"precious"


def test_the_least_recently_used_are_removed_and_open_ones_can_be_read_on(tmp_path: pathlib.Path) -> None:
    cache = Cache(tmp_path, 3)

    def opened(letter: str) -> BinaryIO:
        def fetch(file: BinaryIO) -> None:
            file.write(letter.encode())

        return cache.open(FileInfo(1, 64 * letter), fetch)

    files = {letter: opened(letter) for letter in "abc"}
    opened("a").close()
    files["d"] = opened("d")
    assert {path.name[0] for path in tmp_path.iterdir() if path.name != "lock"} == set("acd")
    for letter, file in files.items():
        with file:
            assert file.read() == letter.encode()


def test_local_paths_need_no_fsspec(local: pathlib.Path) -> None:
    code = f"""
import sys
from pipeline import Records, iterate_batches
for _ in iterate_batches({os.fspath(local)!r}):
    pass
Records({os.fspath(local)!r}).table
assert "fsspec" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("url", "module", "message"),
    [
        ("s3://bucket/records", "s3fs", r"s3://bucket/records: needs s3fs: pip install '\.\[s3\]'"),
        ("gs://bucket/records", "gcsfs", r"gs://bucket/records: needs gcsfs: pip install '\.\[gs\]'"),
        ("s3://bucket/records", "fsspec", r"s3://bucket/records: needs s3fs: pip install '\.\[s3\]'"),
        ("memory://records", "fsspec", r"memory://records: needs fsspec: pip install fsspec"),
    ],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, url: str, module: str, message: str
) -> None:
    if module != "fsspec":
        pytest.importorskip("fsspec", reason="make test-clients installs it")
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    for name in [*sys.modules]:
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecordsError, match=message):
        Records(url, cache_dir=tmp_path)


@pytest.mark.parametrize("url", ["nothing://user:canary7@host/records?sig=canary7", "s3a://user:canary7@x/y?canary7"])
def test_secrets_of_a_url_are_in_no_message(
    tmp_path: pathlib.Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fsspec", reason="make test-clients installs it")
    with pytest.raises(RecordsError, match=r"://(host|x)/") as caught:
        Records(url, cache_dir=tmp_path)
    assert "canary7" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert verify.main([url]) == 1
    assert "canary7" not in capsys.readouterr().out


def test_both_commands_take_a_url(
    local: pathlib.Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert verify.main([url]) == 0
    assert capsys.readouterr().out == f"{url}: {COUNT} records in {SHARDS} shards, every checksum and count matches\n"
    monkeypatch.setattr(sys, "argv", ["pipeline", url])
    assert pipeline.__main__.main() == 0
    there = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["pipeline", str(local)])
    assert pipeline.__main__.main() == 0
    assert there == capsys.readouterr().out.replace(str(local), url)


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    pytest.importorskip("moto", reason="make test-clients installs it")
    with served.serving("-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT") as port:
        yield port


@pytest.fixture
def s3(s3_port: int, local: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before an S3 server with the records, which readers use from now on."""
    s3fs = pytest.importorskip("s3fs", reason="make test-clients installs it")
    client = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=f"http://127.0.0.1:{s3_port}")
    client.mkdirs(BUCKET, exist_ok=True)
    served.upload(client, local, "records")
    with Proxy(s3_port) as proxy:
        for name, value in served.s3_environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        # A client keeps the address that it was made with.
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


def keys(proxy: Proxy) -> dict[str, int]:
    """How often each object was fetched."""
    return {path.rpartition("/")[2]: count for path, count in proxy.fetched().items() if "?" not in path}


@pytest.mark.clients
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_from_s3_is_that_of_the_local_records(
    local: pathlib.Path, s3: Proxy, tmp_path: pathlib.Path, shuffle: bool
) -> None:
    records = Records(f"s3://{BUCKET}/records", cache_dir=tmp_path)
    assert_equal(epochs(records, shuffle=shuffle), epochs(local, shuffle=shuffle))
    assert all(count == 1 for name, count in keys(s3).items() if "-of-" in name)
    small = Records(f"s3://{BUCKET}/records", cache_dir=tmp_path / "small", cache_bytes=room_for(local, 2))
    assert_equal(epochs(small, shuffle=shuffle), epochs(local, shuffle=shuffle))


@pytest.mark.clients
@pytest.mark.parametrize("fault", [served.broken, served.busy, served.cut, served.closed, served.slow])
def test_faults_of_the_network_change_nothing(
    local: pathlib.Path, s3: Proxy, tmp_path: pathlib.Path, fault: Fault
) -> None:
    s3.fault = fault
    records = Records(f"s3://{BUCKET}/records", cache_dir=tmp_path, cache_bytes=room_for(local, 2))
    # In a shuffled epoch, most batches need shards that the cache does not hold.
    shuffle = fault is not served.slow
    assert_equal(epochs(records, shuffle=shuffle), epochs(local, shuffle=shuffle))
    assert len(s3.requests) > (100 if shuffle else 10)


@pytest.mark.clients
def test_a_server_that_always_fails_is_an_error_in_one_line(s3: Proxy, tmp_path: pathlib.Path) -> None:
    s3.fault = lambda number, path, answer: (403, {}, b"")
    with pytest.raises(
        RecordsError, match=rf"^s3://{BUCKET}/records/manifest.json: access denied .*credentials"
    ) as one:
        Records(f"s3://{BUCKET}/records", cache_dir=tmp_path)
    assert "\n" not in str(one.value)
    assert KEY not in str(one.value)
    assert SECRET not in str(one.value)


@pytest.mark.clients
def test_a_bucket_that_is_missing_is_named(s3: Proxy, tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecordsError, match=r"^s3://nowhere/records/manifest.json: missing .*check the URL"):
        Records("s3://nowhere/records", cache_dir=tmp_path)


_READS = """
import hashlib, sys
from pipeline import iterate_batches, Records
records = Records(sys.argv[1], cache_dir=sys.argv[2])
print(hashlib.sha256(b"".join(images.tobytes() for images, masks in iterate_batches(records))).hexdigest())
"""


@pytest.mark.clients
def test_two_processes_at_once_fetch_each_shard_once_and_say_no_secret(
    local: pathlib.Path, s3: Proxy, tmp_path: pathlib.Path
) -> None:
    s3.fault = served.slow
    command = [sys.executable, "-c", _READS, f"s3://{BUCKET}/records", str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in running]
    assert said[0] == said[1]
    assert len(said[0].split()) == 1
    assert [process.returncode for process in running] == [0, 0]
    shards = {shard.name: 1 for shard in shards_of(local)}
    assert {name: count for name, count in keys(s3).items() if name in shards} == shards


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("shards", [2, SHARDS])
def test_workers_of_pytorch_read_from_s3(
    local: pathlib.Path, s3: Proxy, tmp_path: pathlib.Path, method: str, shards: int
) -> None:
    """Workers that are forked from a process that has read from the store, and workers that are spawned."""
    torch = pytest.importorskip("torch", reason="make test-clients installs it")
    from pipeline.torch import BatchDataset

    records = Records(f"s3://{BUCKET}/records", cache_dir=tmp_path, cache_bytes=room_for(local, shards))
    # Its threads and connections exist when the workers are forked.
    assert np.array_equal(records[0][0], Records(local)[0][0])
    options = {"num_workers": 2, "multiprocessing_context": method}
    data = BatchDataset(records, positions=True)
    batches = torch.utils.data.DataLoader(data, batch_size=None, persistent_workers=True, **options)
    for epoch in range(2):
        found = [tuple(part.numpy() for part in batch) for batch in batches]
        expected = iterate_batches(local, positions=True, start_step=epoch * len(found))
        assert_equal(found, list(expected))
    samples = torch.utils.data.DataLoader(records, batch_size=16, **options)
    found = [tuple(part.numpy() for part in batch) for batch in samples]
    assert_equal(found, list(iterate_batches(local, batch_size=16, shuffle=False)))
    if shards == SHARDS:
        assert all(count == 1 for name, count in keys(s3).items() if "-of-" in name)
    assert cached_bytes(tmp_path) <= room_for(local, shards)


def self_signed(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate of localhost that no authority has signed, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
    return folder / "certificate.pem", folder / "key.pem"


@pytest.mark.clients
def test_a_server_with_a_certificate_of_its_own_is_read_once_it_is_named(
    local: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("moto", "cryptography"):
        pytest.importorskip(module, reason="make test-clients installs it")
    s3fs = pytest.importorskip("s3fs", reason="make test-clients installs it")
    certificate, key = self_signed(tmp_path)
    start = ("-H", "127.0.0.1", "-p", "PORT", "--ssl-cert", str(certificate), "--ssl-key", str(key))
    with served.serving("-m", "moto.server", *start) as port:
        for name, value in served.s3_environment(f"https://localhost:{port}").items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(RecordsError, match=r"^s3://studies/records/manifest.json: cannot be fetched .*SSL") as one:
            Records(f"s3://{BUCKET}/records", cache_dir=tmp_path / "cache")
        assert "\n" not in str(one.value)
        assert SECRET not in str(one.value)
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        client = s3fs.S3FileSystem()
        client.mkdirs(BUCKET, exist_ok=True)
        served.upload(client, local, "records")
        assert_equal(epochs(Records(f"s3://{BUCKET}/records", cache_dir=tmp_path / "cache")), epochs(local))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.clients
def test_verify_streams_from_s3(s3: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([f"s3://{BUCKET}/records"]) == 0
    assert f"s3://{BUCKET}/records: {COUNT} records in {SHARDS} shards, every" in capsys.readouterr().out
    s3.fault = lambda number, path, answer: (404, {}, b"") if "-of-" in path else answer
    assert verify.main([f"s3://{BUCKET}/records"]) == 1
    assert "00000-of-00006: missing" in capsys.readouterr().out


@pytest.mark.clients
def test_an_epoch_from_cloud_storage_is_that_of_the_local_records(local: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for module in ("gcp_storage_emulator", "gcsfs"):
        # Not imported here: gcsfs reads its environment when it is imported.
        if importlib.util.find_spec(module) is None:
            pytest.skip("make test-clients installs it")
    start = ("start", "--host=127.0.0.1", "--port=PORT", "--in-memory", f"--default-bucket={BUCKET}")
    with served.serving("-m", "gcp_storage_emulator", *start) as port, Proxy(port) as proxy:
        for path in local.iterdir():
            if not path.stat().st_size:
                # The emulator takes no empty object, and no reader reads this one.
                continue
            target = f"{proxy.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name=records/{path.name}"
            headers = {"Content-Type": "application/octet-stream"}
            with urllib.request.urlopen(urllib.request.Request(target, path.read_bytes(), headers)) as answer:
                assert answer.status == 200
        proxy.fault = served.busy
        said = [
            subprocess.run(
                [sys.executable, "-c", _READS, url, str(tmp_path)],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
                env={**os.environ, **served.gs_environment(proxy.url)},
            ).stdout
            for url in (f"gs://{BUCKET}/records", os.fspath(local))
        ]
    assert said[0] == said[1]
    assert len(said[0].split()) == 1
