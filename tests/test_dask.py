"""The same bytes on a Dask cluster, with ``requirements-beam.txt``: make test-beam."""

import collections
import concurrent.futures
import functools
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pipeline import verify
from preprocess.config import Config
from preprocess.engines.dask import Dask
from preprocess.engines.local import Local
from preprocess.engines.worker import Work
from preprocess.findings import FatalInputError
from preprocess.inputs.sources import Source
from preprocess.run import run

from .helpers import PATIENCE_SECONDS, codecs
from .helpers import stores as served
from .helpers.clusters import dask_cluster
from .helpers.commands import preprocess
from .helpers.stored import S3, as_local, comparable, objects
from .helpers.stores import BUCKET, Answer, Proxy
from .helpers.trees import contents
from .helpers.work import inverse, slow_first


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.beam(pytest.mark.filterwarnings("default")(test))


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of three workers, each with the process that starts it again."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), 3) as (address, _):
        yield address


@pytest.fixture(scope="module")
def expected(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("local") / "records"
    run(Config(data_dir=phantom_dir, output_dir=path))
    return contents(path)


@on_a_cluster
def test_dask_writes_the_same_bytes(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, expected: dict[str, bytes], scheduler: str
) -> None:
    path = tmp_path / "records"
    flags = [f"--data_dir={phantom_dir}", f"--output_dir={path}", "--engine=dask", f"--scheduler={scheduler}"]
    result = preprocess(*flags)
    assert result.returncode == 0, result.stderr
    assert contents(path) == expected
    assert list(verify.faults(path)) == []
    assert os.listdir(tmp_path) == ["records"]


def wait_for(path: pathlib.Path, work: Work[Any, Any], source: Source, config: Config, item: Any) -> Any:
    """``work``, after a file exists; before that, notes which worker of the cluster has started it."""
    (path.parent / f"{os.getppid()}-{uuid.uuid4()}.started").touch()
    while not path.exists():
        time.sleep(0.05)
    return work(source, config, item)


@on_a_cluster
def test_a_worker_that_is_killed_half_way_costs_nothing(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dask"
    folder.mkdir()
    original = Dask.map
    given: list[Any] = []

    def map_held(self: Dask, work: Work[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
        given.extend(items)
        return original(self, functools.partial(wait_for, folder / "go", work), items)

    monkeypatch.setattr(Dask, "map", map_held)
    with (
        dask_cluster(folder, 3, "--no-nanny") as (address, workers),
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        config = Config(phantom_dir, tmp_path / "records", engine="dask", scheduler=address)
        job = thread.submit(run, config)
        deadline = time.monotonic() + PATIENCE_SECONDS
        # Every worker has a task.
        while len({path.name.partition("-")[0] for path in folder.glob("*.started")}) < 3:
            assert not job.done()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers[0].kill()
        (folder / "go").touch()
        job.result(PATIENCE_SECONDS)
    assert contents(tmp_path / "records") == expected
    assert len(list(folder.glob("*.started"))) == len(given) + 1


@on_a_cluster
def test_data_and_records_in_a_store_need_no_shared_disk_and_a_worker_that_is_killed_costs_nothing(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, phantom_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    served.upload(s3_client, phantom_dir, "phantom")
    waiting: list[str] = []
    all_busy, released = threading.Event(), threading.Event()

    def hold(number: int, path: str, answer: Answer) -> Answer:
        if ".tfrecord-" in path and not released.is_set():
            waiting.append(path)
            if len(waiting) == 3:
                all_busy.set()
            released.wait(PATIENCE_SECONDS)
        return answer

    s3.fault = hold
    flags = ["--split=val=PHANTOM002", "--num_shards=3", "--engine=dask"]
    with (
        dask_cluster(tmp_path, 3, "--no-nanny") as (address, workers),
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        data_dir, output_dir = f"--data_dir=s3://{BUCKET}/phantom", f"--output_dir={S3}"
        job = thread.submit(preprocess, data_dir, output_dir, *flags, f"--scheduler={address}")
        try:
            # Each worker has written a file of its shard, and waits for the answer.
            assert all_busy.wait(PATIENCE_SECONDS)
            workers[0].kill()
        finally:
            released.set()
        result = job.result(PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr
    assert as_local(objects(s3_client)) == comparable(contents(phantom_records))
    # One shard was written again.
    written = collections.Counter(path for method, path in s3.requests if method == "PUT" and ".tfrecord-" in path)
    assert len(written) == 12
    assert sum(written.values()) in (13, 14)


@on_a_cluster
@pytest.mark.parametrize("codec", ["never_return", "kill", "allocate"])
def test_a_codec_that_does_not_do_its_work_costs_one_image_on_dask(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, codec: str
) -> None:
    codecs.compress(tree, 9)
    for engine in (Local, Dask):
        codecs.install(monkeypatch, engine, codec)
    run(Config(tree, tmp_path / "expected"))
    run(Config(tree, tmp_path / "records", engine="dask", scheduler=scheduler))
    assert contents(tmp_path / "records") == contents(tmp_path / "expected")


@on_a_cluster
def test_results_of_dask_come_in_order_and_nothing_of_the_job_stays_on_the_cluster(
    tmp_path: pathlib.Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.engines.dask._AHEAD", 5)
    with Dask(Config(tmp_path, tmp_path / "records", engine="dask", scheduler=scheduler)) as engine:
        assert list(engine.map(slow_first, [])) == []
        found = list(engine.map(slow_first, range(20)))
        assert [item for item, _ in found] == list(range(20))
        processes = {process for _, process in found}
        assert len(processes) <= 3
        with pytest.raises(FatalInputError, match=r"^worker process: ZeroDivisionError at .*; this is a bug"):
            list(engine.map(inverse, [1, 0]))
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@on_a_cluster
def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path: pathlib.Path) -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in ("tcp://127.0.0.1:1", "nonsense://here"):
            config = Config(tmp_path, tmp_path / "records", engine="dask", scheduler=address)
            with pytest.raises(FatalInputError, match=f"^--scheduler={address}: cannot be reached") as caught:
                run(config)
            assert "\n" not in str(caught.value)


def test_without_dask_an_error_says_what_to_install(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FatalInputError, match=r"^--engine=dask: Dask is not installed; run pip install '\.\[dask\]'"):
        run(Config(tmp_path, tmp_path / "records", engine="dask", scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "dask"}, "the engine dask needs the address of a scheduler: pass --scheduler=tcp://HOST:8786"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "scheduler needs the engine dask; add --engine=dask"),
    ],
)
def test_the_address_of_a_scheduler_belongs_to_dask(
    tmp_path: pathlib.Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Config(tmp_path, tmp_path / "records", **settings)
