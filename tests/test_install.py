"""The wheel, installed with each extra in a new environment of each Python of this machine: make test-install."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pipeline import __version__, iterate_batches, verify
from preprocess import phantom

from .helpers import ROOT
from .helpers.documents import blocks, environment
from .helpers.stores import s3_environment
from .helpers.trees import contents

pytestmark = pytest.mark.install

VERSIONS = ("3.11", "3.12", "3.13")
OLD_RECORDS = ROOT / "tests" / "data" / "records-0.1.0"

CHECKSUMS = """
import sys, zlib
from pipeline import {reader}
for images, masks in {reader}(sys.argv[1], batch_size=5, seed=3, standardize=True){as_numpy}:
    print(zlib.crc32(images.tobytes()), zlib.crc32(masks.tobytes()))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the sources, because a build writes beside them."""
    path = tmp_path_factory.mktemp("sources") / "source"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.split("\0")[:-1]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes((ROOT / name).read_bytes())
    return path


@pytest.fixture(scope="module")
def dist(source: pathlib.Path) -> pathlib.Path:
    """The folder of sdist and wheel; the wheel is built from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={source / 'dist'}", str(source)]
    subprocess.run(command, check=True, env=without_this_project())
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: pathlib.Path) -> pathlib.Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=VERSIONS)
def interpreter(request: pytest.FixtureRequest) -> str:
    """The path of a Python of one version."""
    command = [f"python{request.param}", "-c", "import sys; print(sys._base_executable)"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"python{request.param} is not installed")
    return found.stdout.strip()


def without_this_project() -> dict[str, str]:
    """Environment variables that do not lead to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Installed(NamedTuple):
    """An environment that has the wheel.

    Attributes:
        folder: an empty one, in which its programs run.
        python: its interpreter.
    """

    folder: pathlib.Path
    python: pathlib.Path

    def attempt(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, and what it prints."""
        return subprocess.run(
            [self.python, *map(str, arguments)],
            cwd=self.folder,
            env={**without_this_project(), "TF_CPP_MIN_LOG_LEVEL": "3", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *arguments: object, **variables: str) -> str:
        """What Python prints with these arguments."""
        result = self.attempt(*arguments, **variables)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def write_records(self, *arguments: str, **variables: str) -> pathlib.Path:
        """Records of the phantom, which both programs of the environment write."""
        self.run("-m", "preprocess.phantom", "--output_dir=phantom")
        flags = ["--data_dir=phantom", "--output_dir=records", "--split=val=PHANTOM002", "--num_shards=3"]
        self.run("-m", "preprocess", *flags, *arguments, **variables)
        return self.folder / "records"


@contextlib.contextmanager
def installed_wheel(interpreter: str, wheel: pathlib.Path, extras: str = "") -> Iterator[Installed]:
    """A new environment, for a ``with`` block: it may take gigabytes, and is removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = folder / "environment"
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
        installed = Installed(folder, environment / "bin" / "python")
        installed.run("-m", "pip", "install", "--quiet", f"cardiac-lv-records[{extras}] @ {wheel.as_uri()}")
        installed.run("-m", "pip", "check")
        yield installed


def checksums() -> list[str]:
    """What ``CHECKSUMS`` prints."""
    return [
        f"{zlib.crc32(images.tobytes())} {zlib.crc32(masks.tobytes())}"
        for images, masks in iterate_batches(OLD_RECORDS, batch_size=5, seed=3, standardize=True)
    ]


def shards(records: pathlib.Path) -> dict[str, bytes]:
    found = {name: content for name, content in contents(records).items() if "tfrecord" in name}
    assert found
    return found


def test_the_commands_without_make_write_records(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (lines,) = (block.content for block in blocks("BUILD.md") if block.language == "bash")
    variables = environment(tmp_path / "bin")
    del variables["PYTHONPATH"]
    subprocess.run(["bash", "-e", "-c", lines], cwd=source, env=variables, check=True)
    assert list(verify.faults(source / "records")) == []


def test_the_wheel_has_every_module_and_the_license_and_says_that_it_is_typed(
    source: pathlib.Path, wheel: pathlib.Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = ("pipeline", "preprocess")
    shipped = {name for name in names if name.startswith(packages)}
    assert shipped == {
        path.relative_to(source).as_posix()
        for package in packages
        for path in (source / package).rglob("*")
        if path.suffix in {".py", ".html", ".css", ".js", ".typed"}
    }
    assert {f"{package}/py.typed" for package in packages} < names
    information = f"cardiac_lv_records-{__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {*packages, information}


def test_the_sdist_has_what_a_build_and_a_reader_need_and_no_data(dist: pathlib.Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pipeline/py.typed"} < names
    assert not [name for name in names if name.startswith(("tests", "docs")) or "tfrecord" in name]


def test_reading_works_with_numpy_alone(interpreter: str, wheel: pathlib.Path) -> None:
    with installed_wheel(interpreter, wheel) as installed:
        assert installed.run("-c", CHECKSUMS.format(reader="iterate_batches", as_numpy=""), OLD_RECORDS).split(
            "\n"
        ) == [*checksums(), ""]
        listed = installed.run("-m", "pip", "list", "--format=freeze")
        packages = {line.partition("==")[0].lower() for line in listed.splitlines()}
        assert packages - {"pip", "setuptools"} == {"cardiac-lv-records", "numpy", "google-crc32c"}

        installed.run("-m", "pipeline.verify", OLD_RECORDS)
        assert "36 records of 3 studies" in installed.run("-m", "pipeline", OLD_RECORDS)
        code = "import sys; from pipeline import *; print(len(Records(sys.argv[1]))); make_dataset(sys.argv[1])"
        failed = installed.attempt("-c", code, OLD_RECORDS)
        assert failed.stdout == "36\n"
        assert "make_dataset needs TensorFlow: pip install tensorflow" in failed.stderr

        for module in ("preprocess", "preprocess.report", "preprocess.phantom"):
            refused = installed.attempt("-m", module, "--help")
            assert refused.returncode == 1
            (line,) = refused.stderr.splitlines()
            assert "pip install '.[preprocess]' in the project's folder, '.[preprocess,report]' for the report" in line

        for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs")):
            refused = installed.attempt("-m", "pipeline.verify", f"{scheme}://bucket/records")
            assert refused.returncode == 1
            (line,) = (refused.stdout + refused.stderr).splitlines()
            assert line.endswith(f"{scheme}://bucket/records: needs {package}: pip install '.[{scheme}]'")


def test_mypy_strict_accepts_a_script_that_uses_the_wheel(
    interpreter: str, wheel: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "script.py").write_text(
        "from pipeline import Records, iterate_batches\n"
        "for images, masks in iterate_batches(Records('records'), batch_size=8):\n"
        "    reveal_type(images)\n"
        "from preprocess.config import Config\n"
        "reveal_type(Config.num_shards)\n"
    )
    with installed_wheel(interpreter, wheel) as installed:
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--python-executable={installed.python}",
        ]
        result = subprocess.run(
            [*command, "script.py"],
            cwd=tmp_path,
            env=without_this_project(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', result.stdout)
    assert revealed[0].startswith("numpy.ndarray[")
    assert revealed[1:] == ["int | None"]


def test_the_extra_tensorflow_gives_the_same_batches(interpreter: str, wheel: pathlib.Path) -> None:
    with installed_wheel(interpreter, wheel, "tensorflow") as installed:
        code = CHECKSUMS.format(reader="make_dataset", as_numpy=".as_numpy_iterator()")
        assert installed.run("-c", code, OLD_RECORDS).splitlines() == checksums()


def test_the_extra_preprocess_writes_the_same_records(
    interpreter: str, wheel: pathlib.Path, phantom_records: pathlib.Path
) -> None:
    with installed_wheel(interpreter, wheel, "preprocess") as installed:
        assert shards(installed.write_records()) == shards(phantom_records)
        installed.run("-m", "pipeline.verify", "records")
        refused = installed.attempt("-m", "preprocess.report", "--help")
        assert refused.returncode == 1
        assert "needs jinja2, matplotlib: pip install '.[preprocess,report]'" in refused.stderr
        for flags, remedy in (
            (["--data_dir=s3://bucket/studies"], "pip install '.[preprocess,s3]'"),
            (["--data_dir=phantom", "--engine=dask", "--scheduler=tcp://127.0.0.1:1"], "pip install '.[dask]'"),
        ):
            refused = installed.attempt("-m", "preprocess", "--output_dir=more", *flags)
            assert refused.returncode == 1
            assert remedy in refused.stderr
        # The extra jpeg is not there.
        assert lossless_jpeg(installed) == "False\n"


def lossless_jpeg(installed: Installed) -> str:
    code = "from pydicom import pixels, uid; print(pixels.get_decoder(uid.JPEGLosslessSV1).is_available)"
    return installed.run("-c", code)


def test_the_extra_jpeg_brings_the_codec(interpreter: str, wheel: pathlib.Path) -> None:
    with installed_wheel(interpreter, wheel, "preprocess,jpeg") as installed:
        assert lossless_jpeg(installed) == "True\n"


def test_the_extra_report_writes_the_pages(interpreter: str, wheel: pathlib.Path) -> None:
    with installed_wheel(interpreter, wheel, "preprocess,report") as installed:
        installed.write_records()
        installed.run("-m", "preprocess.report", "--data_dir=phantom", "--records_dir=records", "--output_dir=report")
        index = (installed.folder / "report" / "index.html").read_text("utf-8")
        assert {study for study in phantom.STUDIES if study in index} == set(phantom.STUDIES)


def test_the_extra_dask_writes_the_same_records(
    interpreter: str, wheel: pathlib.Path, phantom_records: pathlib.Path
) -> None:
    cluster = """
import subprocess, sys
import distributed
if __name__ == "__main__":
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as one:
        flags = ["--data_dir=phantom", "--output_dir=records", "--split=val=PHANTOM002", "--num_shards=3"]
        engine = ["--engine=dask", f"--scheduler={one.scheduler_address}"]
        subprocess.run([sys.executable, "-m", "preprocess", *flags, *engine], check=True)
"""
    with installed_wheel(interpreter, wheel, "preprocess,dask") as installed:
        installed.run("-m", "preprocess.phantom", "--output_dir=phantom")
        (installed.folder / "cluster.py").write_text(cluster)
        installed.run("cluster.py")
        assert shards(installed.folder / "records") == shards(phantom_records)


class Bucket(http.server.SimpleHTTPRequestHandler):
    """Answers as S3 does for objects of public buckets, the folders below a folder: whole, or a range of bytes."""

    def do_GET(self) -> None:
        path = pathlib.Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            content = content[start : end + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[str]:
    """The URL of a folder, for a ``with`` block."""
    handler = functools.partial(Bucket, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_extra_s3_reads_records_at_a_url(interpreter: str, wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "records").symlink_to(OLD_RECORDS)
    with served(tmp_path) as url, installed_wheel(interpreter, wheel, "s3") as installed:
        variables = {**s3_environment(url), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        code = CHECKSUMS.format(reader="iterate_batches", as_numpy="")
        printed = installed.run("-c", code, "s3://bucket/records", **variables)
        assert printed.splitlines() == checksums()
        installed.run("-m", "pipeline.verify", "s3://bucket/records", **variables)


def test_the_extra_gs_brings_the_client(interpreter: str, wheel: pathlib.Path) -> None:
    """make test-clients reads from an emulator of Cloud Storage."""
    with installed_wheel(interpreter, wheel, "gs") as installed:
        code = "import fsspec; print(fsspec.get_filesystem_class('gs').__module__)"
        assert installed.run("-c", code).startswith("gcsfs")
