"""The same bytes on Apache Beam, with ``requirements-beam.txt``: make test-beam."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from pipeline import verify
from preprocess import urls
from preprocess.config import Config
from preprocess.engines.beam import Beam
from preprocess.engines.local import Local
from preprocess.findings import FatalInputError
from preprocess.inputs import sources
from preprocess.layouts import challenge
from preprocess.output.destinations import Directory, Objects
from preprocess.run import run
from preprocess.stages.load import examine
from preprocess.urls import Url

from .helpers import PATIENCE_SECONDS, ROOT, codecs
from .helpers import stores as served
from .helpers.clusters import dask_cluster
from .helpers.commands import preprocess
from .helpers.stored import S3, as_local, comparable, objects
from .helpers.stores import BUCKET, Proxy
from .helpers.trees import contents
from .helpers.work import inverse

pytestmark = [pytest.mark.beam, pytest.mark.filterwarnings("default")]


_DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner --dask_client_address"


@pytest.fixture(scope="module")
def expected(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("local") / "records"
    run(Config(data_dir=phantom_dir, output_dir=path))
    return dict(contents(path))


def on_beam(data_dir: pathlib.Path, path: pathlib.Path, arguments: str, *more: str) -> dict[str, bytes]:
    flags = [f"--data_dir={data_dir}", f"--output_dir={path}", "--engine=beam", f"--beam_args={arguments}", *more]
    result = subprocess.run(
        [sys.executable, "-m", "preprocess", *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert list(verify.faults(path)) == []
    assert os.listdir(path.parent) == [path.name]
    return dict(contents(path))


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_beam_on_the_direct_runner_writes_the_same_bytes(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, expected: dict[str, bytes], mode: str
) -> None:
    arguments = f"--runner=DirectRunner --direct_running_mode={mode} --direct_num_workers=2"
    assert on_beam(phantom_dir, tmp_path / "records", arguments) == expected


def test_beam_writes_the_same_label_maps(
    phantom_dir: pathlib.Path, phantom_label_maps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    flags = "--contours=io", "--split=val=PHANTOM002", "--num_shards=3"
    assert on_beam(phantom_dir, tmp_path / "records", arguments, *flags) == contents(phantom_label_maps)


def test_beam_on_a_dask_cluster_writes_the_same_bytes(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask", 2, "--no-nanny") as (address, _):
        assert on_beam(phantom_dir, tmp_path / "out" / "records", f"{_DASK}={address}") == expected


def test_a_dask_worker_that_is_killed_costs_nothing(
    phantom_dir: pathlib.Path, tmp_path: pathlib.Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "dask").mkdir()
    path = tmp_path / "out" / "records"
    with dask_cluster(tmp_path / "dask", 2, "--no-nanny") as (address, workers):
        flags = [f"--data_dir={phantom_dir}", f"--output_dir={path}", "--engine=beam", f"--beam_args={_DASK}={address}"]
        with subprocess.Popen([sys.executable, "-m", "preprocess", *flags], cwd=ROOT) as job:
            staging = path.parent / ".records.partial" / "staging"
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(staging.glob("*/*.result")):
                assert job.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
            workers[0].send_signal(signal.SIGKILL)
            assert job.wait(PATIENCE_SECONDS) == 0
    assert contents(path) == expected
    assert list(verify.faults(path)) == []
    assert os.listdir(path.parent) == ["records"]


def test_data_and_records_in_a_store_need_no_shared_disk(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, phantom_records: pathlib.Path, in_process: None
) -> None:
    served.upload(s3_client, phantom_dir, "phantom")
    runner = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    flags = ["--split=val=PHANTOM002", "--num_shards=3", "--engine=beam", f"--beam_args={runner}"]
    result = preprocess(f"--data_dir=s3://{BUCKET}/phantom", f"--output_dir={S3}", *flags)
    assert result.returncode == 0, result.stderr
    assert as_local(objects(s3_client)) == comparable(contents(phantom_records))
    assert list(verify.faults(S3)) == []
    staged = [path for method, path in s3.requests if method == "PUT" and "-staging-" in path]
    assert [path for path in staged if path.endswith(".item")]
    assert len([path for path in staged if path.endswith(".result")]) == len(staged) / 2


def test_what_a_bug_leaves_on_beam_is_removed_from_the_store(
    s3: Proxy, s3_client: Any, tmp_path: pathlib.Path, in_process: None
) -> None:
    url = urls.place(S3)
    assert isinstance(url, Url)
    config = Config(tmp_path, url, engine="beam")
    expected = r"^worker process: ZeroDivisionError at .*; this is a bug, please report it$"
    with (
        Beam(config, Objects.of_job(url, "0123456789abcdef")) as engine,
        pytest.raises(FatalInputError, match=expected),
    ):
        list(engine.map(inverse, [1, 0]))
    assert [path for method, path in s3.requests if method == "PUT"]
    assert objects(s3_client) == {}


@pytest.mark.parametrize("codec", ["never_return", "kill", "allocate"])
def test_a_codec_that_does_not_do_its_work_costs_one_image_on_beam(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    codecs.compress(tree, 9)
    for engine in (Local, Beam):
        codecs.install(monkeypatch, engine, codec)
    run(Config(tree, tmp_path / "expected"))
    arguments = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    run(Config(tree, tmp_path / "records", engine="beam", beam_args=arguments))
    assert contents(tmp_path / "records") == contents(tmp_path / "expected")


def test_an_item_that_is_worked_on_twice_has_one_result(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A runner does so when it takes a slow worker for a lost one."""
    config = Config(data_dir=tree, output_dir=tmp_path / "records", engine="beam")
    studies = challenge.discover(sources.open_source(tree))[0]
    beam = Beam(config, Directory.at(tmp_path))
    twice = [*studies, *studies]
    found = [content.summary.study_id for content in beam.map(examine, twice)]
    assert found == [study.study_id for study in twice]
    assert [path for path in tmp_path.iterdir() if path != tree] == []


def test_a_bug_ends_a_job_on_beam_in_one_line(tmp_path: pathlib.Path) -> None:
    config = Config(tmp_path, tmp_path / "records", engine="beam")
    expected = r"^worker process: ZeroDivisionError at .*; this is a bug, please report it$"
    with Beam(config, Directory.at(tmp_path)) as engine, pytest.raises(FatalInputError, match=expected):
        list(engine.map(inverse, [1, 0]))
    assert os.listdir(tmp_path) == []


def test_without_beam_an_error_says_what_to_install(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FatalInputError, match=r"Apache Beam is not installed; run pip install -r requirements-beam\.txt"
    ):
        run(Config(data_dir=tree, output_dir=tree.parent / "records", engine="beam"))
