"""Places of data: paths, and URLs of stores."""

import pathlib
import subprocess
import sys

import pytest

from preprocess import urls
from preprocess.findings import FatalInputError
from preprocess.inputs import sources
from preprocess.urls import Url

from .helpers.commands import preprocess
from .helpers.trees import contents

KEY, SECRET = "AKIACANARY7KEY", "canary7secret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("studies", pathlib.Path("studies")),
        ("a/b://c", pathlib.Path("a/b:/c")),
        ("file:///data/my%20studies", pathlib.Path("/data/my studies")),
        ("file://localhost/data", pathlib.Path("/data")),
        ("s3://bucket", Url("s3", "bucket")),
        ("S3://bucket/a//b.zip", Url("s3", "bucket/a//b.zip")),
        ("gs://bucket/studies/", Url("gs", "bucket/studies")),
        ("s3://bucket/with@sign#1", Url("s3", "bucket/with@sign#1")),
    ],
)
def test_a_text_is_a_path_or_the_url_of_a_store(text: str, expected: object) -> None:
    assert urls.place(text) == expected


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY}:{SECRET}@bucket/studies",
        f"s3://{KEY}:{SECRET}/more@bucket/studies",
        f"gs://bucket/studies?X-Goog-Signature={SECRET}",
        f"https://bucket.s3.amazonaws.com/studies?X-Amz-Signature={SECRET}",
        f"file://{SECRET}@host/studies",
    ],
)
def test_a_url_that_may_contain_credentials_is_refused_and_not_repeated(url: str, tmp_path: pathlib.Path) -> None:
    result = preprocess(f"--data_dir={url}", f"--output_dir={tmp_path / 'records'}")
    assert result.returncode == 2
    assert result.stderr.startswith("preprocess: --data_dir")
    assert len(result.stderr.splitlines()) == 1
    assert KEY not in result.stderr
    assert SECRET not in result.stderr


def test_a_store_is_refused_where_only_a_path_can_be_used(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = preprocess(f"--data_dir={tree}", f"--output_dir={tmp_path / 'records'}", "--exclude=s3://bucket/folder")
    assert result.returncode == 2
    assert result.stderr.startswith("preprocess: --exclude: is the URL of a store")
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/studies", "s3fs"), ("gs://bucket/studies", "gcsfs")])
def test_a_missing_package_is_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FatalInputError, match=rf"needs {package}, .* run pip install '\.\[preprocess,{url[:2]}\]'"):
        sources.open_source(urls.place(url))


def test_a_file_url_is_read_as_its_path(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name, data_dir in (("path", f"{tree}"), ("url", f"file://{tree}")):
        assert not preprocess(f"--data_dir={data_dir}", f"--output_dir={tmp_path / name}").returncode
    assert contents(tmp_path / "url") == contents(tmp_path / "path")


def test_a_path_imports_no_client_of_a_store(tree: pathlib.Path) -> None:
    code = f"""
import pathlib, sys
from preprocess.inputs import sources
sources.reopen(pathlib.Path({str(tree)!r})), sources.open_source(pathlib.Path({str(tree)!r}))
print([name for name in ("fsspec", "s3fs", "gcsfs", "asyncio") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
