from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from preprocess import phantom
from preprocess.config import Config

from .helpers import ROOT
from .helpers import stores as served
from .helpers.shared import shared, shared_phantom
from .helpers.stores import BUCKET, KEY, SECRET, Proxy
from .helpers.synthetic import Synthetic, synthetic_arrays, write_synthetic

# TensorFlow, by preprocess.run, and hypothesis take long to import: the functions that use them import them.


def pytest_configure() -> None:
    import hypothesis

    # The time that an example takes depends on what else the machine does.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return shared_phantom(tmp_path_factory)


@pytest.fixture(scope="session")
def phantom_records(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "phantom-records") as path:
        if not path.exists():
            run(Config(data_dir=phantom_dir, output_dir=path, split="val=PHANTOM002", num_shards=3))
    return path


@pytest.fixture(scope="session")
def phantom_label_maps(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "phantom-label-maps") as path:
        if not path.exists():
            run(Config(phantom_dir, path, contours="io", split="val=PHANTOM002", num_shards=3))
    return path


@pytest.fixture
def tree(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two flawless studies of the phantom: their labeled images, an unlabeled one, and their contours."""
    root = tmp_path / "tree"
    for study, contours in (("PHANTOM001", "PH-1"), ("PHANTOM002", "PH-2")):
        for kind in ("i-contours", "o-contours"):
            (root / "contourfiles" / contours / kind).mkdir(parents=True)
        (root / "dicoms" / study).mkdir(parents=True)
        for number in (1, 9, 10, 21, 29):
            shutil.copy(phantom_dir / "dicoms" / study / f"{number}.dcm", root / "dicoms" / study)
            for kind in "io":
                name = phantom.contour_name(number, kind)
                source = phantom_dir / "contourfiles" / contours / f"{kind}-contours" / name
                if source.exists():
                    shutil.copy(source, root / "contourfiles" / contours / f"{kind}-contours")
    (root / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\nPHANTOM002,PH-2\n")
    return root


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    path = pathlib.Path(os.environ.get("CARDIAC_DATA", ROOT.parent / "shared/data/final_data"))
    if not path.exists():
        pytest.skip(f"the real data set is not there ({path}); CARDIAC_DATA names another place")
    return path


@pytest.fixture(scope="session")
def real_records(real_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "real-records") as path:
        if not path.exists():
            run(Config(data_dir=real_data, output_dir=path))
    return path


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Makes records of small random images; equal arguments share one directory."""
    made: dict[tuple[object, ...], pathlib.Path] = {}

    def make(count: int, shape: tuple[int, int] = (6, 5), dtype: str = "int16", num_shards: int = 3) -> pathlib.Path:
        key = (count, shape, dtype, num_shards)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("synthetic") / "records"
            write_synthetic(made[key], *synthetic_arrays(count, shape, dtype), num_shards=num_shards)
        return made[key]

    return make


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    pytest.importorskip("moto", reason="make test-clients installs it")
    with served.serving("-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT") as port:
        yield port


@pytest.fixture(scope="module")
def s3_client(s3_port: int) -> Any:
    """The S3 server with an empty bucket, without a proxy."""
    s3fs = pytest.importorskip("s3fs", reason="make test-clients installs it")
    client = s3fs.S3FileSystem(
        key=KEY, secret=SECRET, endpoint_url=f"http://127.0.0.1:{s3_port}", use_listings_cache=False
    )
    client.mkdir(BUCKET)
    return client


@pytest.fixture
def s3(s3_port: int, s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the S3 server, which the programs that a test runs use."""
    with Proxy(s3_port) as proxy:
        for name, value in served.s3_environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy
    if left := s3_client.ls(BUCKET):
        s3_client.rm(left, recursive=True)


@pytest.fixture
def s3_tree(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> str:
    """The URL of the fixture ``tree``."""
    served.upload(s3_client, tree, "tree")
    return f"s3://{BUCKET}/tree"


@pytest.fixture
def gs_port() -> Iterator[int]:
    pytest.importorskip("gcp_storage_emulator", reason="make test-clients installs it")
    start = ("start", "--host=127.0.0.1", "--port=PORT", "--in-memory", f"--default-bucket={BUCKET}")
    with served.serving("-m", "gcp_storage_emulator", *start) as port:
        yield port


@pytest.fixture
def gs(gs_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before a Cloud Storage server, which the programs that a test runs use."""
    with Proxy(gs_port) as proxy:
        for name, value in served.gs_environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def gs_client(gs: Proxy, gs_port: int) -> Any:
    """The Cloud Storage server, without the proxy."""
    # Imported here, because it reads the environment.
    gcsfs = pytest.importorskip("gcsfs", reason="make test-clients installs it")
    return gcsfs.GCSFileSystem(token="anon", endpoint_url=f"http://127.0.0.1:{gs_port}", use_listings_cache=False)


@pytest.fixture
def in_process(s3: Proxy) -> Iterator[None]:
    """A client of this process that uses the store of the test."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()
