"""Data in a store: servers of S3 and Cloud Storage on this machine."""

import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import urls
from preprocess.findings import DATA_DIR
from preprocess.inputs import sources, stores
from preprocess.inputs.folders import Folder
from preprocess.layouts import challenge

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers import stores as served
from .helpers.commands import preprocess
from .helpers.stores import BUCKET, KEY, SECRET, Answer, Fault, Proxy
from .helpers.tables import audit_of, found_by, read_table
from .helpers.trees import contents, image, zipped

pytestmark = [
    pytest.mark.clients,
    # Clients and servers use deprecated parts of the standard library.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


def published(data_dir: object, output_dir: pathlib.Path, *flags: str) -> dict[str, bytes]:
    """What a job publishes; neither that nor what it prints contains credentials."""
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={output_dir}", *flags)
    assert result.returncode == 0, result.stderr
    files = contents(output_dir)
    for text in (result.stdout.encode(), result.stderr.encode(), *files.values()):
        assert SECRET.encode() not in text
        assert KEY.encode() not in text
    return files


def refusal(data_dir: object, output_dir: pathlib.Path) -> str:
    """The only line of a job that publishes nothing, besides log lines; it contains no credentials."""
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={output_dir}")
    assert result.returncode == 1, result.stderr
    assert not [name for name in os.listdir(output_dir.parent) if output_dir.name in name]
    assert SECRET not in result.stderr
    assert KEY not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not re.match(r"[IW]\d{4} ", line)]
    return line


def test_a_folder_in_s3_gives_the_bytes_of_a_local_one_and_is_listed_once(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    served.upload(s3_client, phantom_dir, "deep/phantom")
    stored = published(f"s3://{BUCKET}/deep/phantom", tmp_path / "stored", "--workers=2")
    assert stored == published(phantom_dir, tmp_path / "local")
    fetched = s3.fetched()
    whole = [path for path in fetched if "list-type=2" in path and "delimiter=&" in path]
    assert [fetched[path] for path in whole] == [1]
    objects = {path: count for path, count in fetched.items() if "?" not in path}
    # Each file is read once, and the images of pairs and the contours once more to draw them.
    pairs = len(read_table(stored["pairs.csv"]))
    contours = len([*phantom_dir.rglob("*-manual.txt")])
    assert sum(objects.values()) <= len(contents(phantom_dir)) + pairs + contours
    assert sorted(set(objects.values())) == [1, 2]


def test_an_archive_in_s3_is_read_by_ranges_and_not_as_a_whole(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    unused = np.random.default_rng(0).bytes(60 << 20)
    path = zipped(phantom_dir, tmp_path / "phantom.zip", ("more/unused.bin", unused))
    s3_client.pipe_file(f"{BUCKET}/zips/phantom.zip", path.read_bytes())
    stored = published(f"s3://{BUCKET}/zips/phantom.zip", tmp_path / "stored", "--workers=2")
    assert stored == published(path, tmp_path / "local")
    used = path.stat().st_size - len(unused)
    # The images of pairs are read twice, and ranges hold other files, too.
    assert sum(s3.bodies) < 2.5 * used < path.stat().st_size
    assert max(s3.bodies) <= stores.RANGE_BYTES
    assert len(s3.bodies) < len(contents(phantom_dir)) / 2


def test_archives_and_folders_in_s3_are_one_data_set_as_local_ones_are(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "zips").mkdir()
    for name in ("dicoms", "contourfiles"):
        with zipfile.ZipFile(tmp_path / "zips" / f"{name}.zip", "w") as archive:
            for path, content in contents(tree / name).items():
                archive.writestr(f"{name}/{path}", content)
    (tmp_path / "zips" / "link.csv").write_bytes((tree / "link.csv").read_bytes())
    served.upload(s3_client, tmp_path / "zips", "zips")
    local = published(tmp_path / "zips", tmp_path / "local")
    assert published(f"s3://{BUCKET}/zips", tmp_path / "stored") == local


def test_parts_of_a_data_set_lie_in_a_store_and_on_this_machine(
    s3: Proxy, s3_client: Any, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for folder, name in (("images", "dicoms"), ("link", "link.csv")):
        (tmp_path / folder).mkdir()
        (tree / name).rename(tmp_path / folder / name)
    path = zipped(tmp_path / "images", tmp_path / "dicoms.zip")
    s3_client.pipe_file(f"{BUCKET}/dicoms.zip", path.read_bytes())
    link = f"--data_dir={tmp_path / 'link'}"
    local = published(path, tmp_path / "local", f"--data_dir={tree / 'contourfiles'}", link)
    stored = f"s3://{BUCKET}/dicoms.zip"
    assert published(stored, tmp_path / "stored", f"--data_dir={s3_tree}/contourfiles", link) == local


def test_folder_and_archive_in_cloud_storage_give_the_bytes_of_local_ones(
    gs_client: Any, phantom_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    served.upload(gs_client, phantom_dir, "deep/phantom")
    path = zipped(phantom_dir, tmp_path / "phantom.zip")
    gs_client.pipe_file(f"{BUCKET}/phantom.zip", path.read_bytes())
    local = published(phantom_dir, tmp_path / "local")
    assert published(f"gs://{BUCKET}/deep/phantom", tmp_path / "folder") == local
    assert published(f"gs://{BUCKET}/phantom.zip", tmp_path / "archive") == local


@pytest.mark.parametrize("fault", [served.broken, served.cut])
def test_cloud_storage_that_fails_often_changes_no_byte(
    fault: Fault, gs: Proxy, gs_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    served.upload(gs_client, tree, "tree")
    gs.fault = fault
    assert published(f"gs://{BUCKET}/tree", tmp_path / "stored") == published(tree, tmp_path / "local")


@pytest.mark.parametrize(
    ("data_dir", "status", "detail"),
    [
        (f"gs://{BUCKET}/no-such-folder", None, "it is not there; pass a folder or a zip archive"),
        ("gs://no-such-bucket/studies", None, "it is not there; pass a folder or a zip archive"),
        (f"gs://{BUCKET}/tree", 403, "access is denied"),
        (f"gs://{BUCKET}/tree", 401, "access is denied"),
    ],
)
def test_cloud_storage_that_refuses_is_named_with_what_to_do(
    data_dir: str,
    status: int | None,
    detail: str,
    gs: Proxy,
    gs_client: Any,
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    served.upload(gs_client, tree, "tree")
    if status:
        gs.fault = lambda number, path, right: (status, {}, f'{{"error": {{"message": "{SECRET}"}}}}'.encode())
    line = refusal(data_dir, tmp_path / "records")
    assert line.startswith(f"preprocess: {data_dir}: {detail}")


@pytest.mark.parametrize("fault", [served.broken, served.busy, served.cut, served.closed, served.slow])
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_store_that_fails_often_or_is_slow_changes_no_byte(
    fault: Fault, kind: str, s3: Proxy, s3_client: Any, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data_dir = s3_tree
    if kind == "archive":
        # Of stored entries: some twenty ranges.
        s3_client.pipe_file(f"{BUCKET}/tree.zip", zipped(tree, tmp_path / "tree.zip").read_bytes())
        data_dir = f"s3://{BUCKET}/tree.zip"
    s3.fault = fault
    assert published(data_dir, tmp_path / "stored") == published(tree, tmp_path / "local")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((403, {}, b""), "access is denied"),
        ((404, {}, b""), "it is not there"),
        ((500, {}, b""), "the request fails again and again"),
        (None, "the request fails again and again"),
    ],
)
def test_an_object_that_alone_fails_is_a_row(
    answer: Answer | None, detail: str, s3: Proxy, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    s3.fault = lambda number, path, right: answer if path.endswith("PHANTOM001/9.dcm") else right
    stored = published(s3_tree, tmp_path / "stored")
    rows = [row for row in audit_of(tmp_path / "stored") if row["reason"] == "unreadable_image"]
    assert [row["path"] for row in rows] == ["dicoms/PHANTOM001/9.dcm"]
    assert detail in rows[0]["detail"]
    # The records are those of a local tree in which the image cannot be read either.
    image(tree, 9).unlink()
    image(tree, 9).mkdir()
    local = published(tree, tmp_path / "local")
    assert {name: stored[name] for name in stored if ".tfrecord" in name} == {
        name: local[name] for name in local if ".tfrecord" in name
    }


def test_an_object_over_the_limit_of_a_file_is_a_row_and_is_not_fetched(
    s3: Proxy, s3_tree: str, tmp_path: pathlib.Path
) -> None:
    def claiming(number: int, path: str, answer: Answer) -> Answer:
        if not path.endswith("PHANTOM001/9.dcm"):
            return answer
        status, headers, body = answer
        headers = {name: value for name, value in headers.items() if "checksum" not in name}
        if body:
            return status, {**headers, "content-length": str(1 << 22)}, body.ljust(1 << 22, b"\0")
        return status, {**headers, "content-length": str(10 << 30)}, body

    s3.fault = claiming
    published(s3_tree, tmp_path / "records")
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    assert f"it has {10 << 30} bytes" in row["detail"]
    assert s3.fetched()[f"/{BUCKET}/tree/dicoms/PHANTOM001/9.dcm"] == 1


def test_an_empty_object_is_read_as_an_empty_file(
    s3: Proxy, s3_client: Any, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    image(tree, 9).write_bytes(b"")
    s3_client.pipe_file(f"{BUCKET}/tree/dicoms/PHANTOM001/9.dcm", b"")
    # Consoles make such objects for folders.
    s3_client.call_s3("put_object", Bucket=BUCKET, Key="tree/dicoms/", Body=b"")
    assert published(s3_tree, tmp_path / "stored") == published(tree, tmp_path / "local")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((403, {}, b""), "access is denied (PermissionError 403); check the credentials"),
        (
            (
                403,
                {"content-type": "application/xml"},
                f"<Error><Code>InvalidAccessKeyId</Code><Message>{KEY}</Message></Error>".encode(),
            ),
            "access is denied (PermissionError",
        ),
        ((404, {}, b""), "it is not there; pass a folder or a zip archive"),
        ((503, {}, b""), "the request fails again and again"),
        (None, "check the network and the address of the store"),
    ],
)
@pytest.mark.parametrize("after", [0, 12])
def test_a_store_that_answers_nothing_ends_the_job_in_one_line(
    answer: Answer | None, after: int, detail: str, s3: Proxy, s3_tree: str, tmp_path: pathlib.Path
) -> None:
    s3.fault = lambda number, path, right: answer if number > after else right
    line = refusal(s3_tree, tmp_path / "records")
    assert line.startswith(f"preprocess: {s3_tree}: ")
    assert detail in line


@pytest.mark.parametrize("data_dir", ["s3://no-such-bucket/studies", f"s3://{BUCKET}/no-such-folder", "s3://no-bucket"])
def test_a_folder_that_does_not_exist_is_named(data_dir: str, s3: Proxy, s3_tree: str, tmp_path: pathlib.Path) -> None:
    line = refusal(data_dir, tmp_path / "records")
    assert line == f"preprocess: {data_dir}: it is not there; pass a folder or a zip archive as {DATA_DIR}"


def test_an_archive_that_is_replaced_while_it_is_read_ends_the_job(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    former = zipped(tree, tmp_path / "tree.zip").read_bytes()
    s3_client.pipe_file(f"{BUCKET}/tree.zip", former)

    def replacing(number: int, path: str, answer: Answer) -> Answer:
        if number == 8:
            s3_client.pipe_file(f"{BUCKET}/tree.zip", former + b"\0")
        return answer

    s3.fault = replacing
    line = refusal(f"s3://{BUCKET}/tree.zip", tmp_path / "records")
    assert line.startswith(f"preprocess: s3://{BUCKET}/tree.zip: ")
    assert "changed while it was read" in line


def test_an_image_that_is_replaced_after_it_was_examined_is_left_out(
    s3: Proxy, s3_client: Any, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    name = "tree/dicoms/PHANTOM001/9.dcm"
    seen: collections.Counter[str] = collections.Counter()

    def replacing(number: int, path: str, answer: Answer) -> Answer:
        seen[path] += 1
        if path.endswith(name) and seen[path] == 1:
            s3_client.pipe_file(f"{BUCKET}/{name}", image(tree, 10).read_bytes())
        return answer

    s3.fault = replacing
    published(s3_tree, tmp_path / "records")
    assert found_by(tmp_path / "records", "changed_image") == [("PHANTOM001", "9", "error")]


def test_a_file_that_is_no_archive_is_named(s3: Proxy, s3_client: Any, tmp_path: pathlib.Path) -> None:
    s3_client.pipe_file(f"{BUCKET}/studies.tar.gz", b"\x1f\x8b" + bytes(100))
    line = refusal(f"s3://{BUCKET}/studies.tar.gz", tmp_path / "records")
    assert line.startswith(f"preprocess: s3://{BUCKET}/studies.tar.gz: is a gzip file; unpack it")


def test_a_report_shows_images_from_a_store_as_from_a_local_folder(
    s3: Proxy, s3_tree: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    published(tree, tmp_path / "records")
    for name, data_dir in (("local", tree), ("stored", s3_tree)):
        flags = f"--records_dir={tmp_path / 'records'}", f"--output_dir={tmp_path / name}"
        result = preprocess(f"--data_dir={data_dir}", *flags, module="preprocess.report")
        assert result.returncode == 0, result.stderr
    local, stored = contents(tmp_path / "local"), contents(tmp_path / "stored")
    assert stored.pop("index.html").replace(s3_tree.encode(), str(tree).encode()) == local.pop("index.html")
    assert stored == local
    assert len(local) == 2


def test_an_interrupted_job_waits_for_no_store(s3: Proxy, s3_tree: str, tmp_path: pathlib.Path) -> None:
    interrupted, released = threading.Event(), threading.Event()

    def waiting(number: int, path: str, answer: Answer) -> Answer:
        if number > 12:
            interrupted.set()
            released.wait(PATIENCE_SECONDS)
        return answer

    s3.fault = waiting
    command = [sys.executable, "-m", "preprocess", f"--data_dir={s3_tree}", f"--output_dir={tmp_path / 'records'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as job:
        try:
            assert interrupted.wait(PATIENCE_SECONDS)
            job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=PATIENCE_SECONDS)
        finally:
            job.kill()
            released.set()
    assert job.returncode == 1
    assert errors.splitlines()[-1] == "preprocess: interrupted; nothing was published"
    assert not list(tmp_path.glob("*records*"))


_NAMES = st.text("ab ./%#+&='\"~é日", min_size=1, max_size=8).filter(
    lambda name: {"", ".", ".."}.isdisjoint(name.split("/"))
)


def test_a_store_lists_and_reads_the_names_of_a_local_folder(
    in_process: None, s3_client: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=15)
    @given(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
    def check(names: list[str]) -> None:
        root = tmp_path_factory.mktemp("names")
        for number, name in enumerate(names):
            path = root / name
            # A name cannot be a file and a folder in a file system.
            if not path.exists() and all(not parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes([number]))
        served.upload(s3_client, root, root.name)
        stored = sources.open_source(urls.place(f"s3://{BUCKET}/{root.name}"))
        local = Folder.list(root)
        assert stored.paths == local.paths
        for listed in local.paths:
            with stored.open(listed) as file:
                assert file.read() == (root / listed).read_bytes()

    check()


def test_a_store_gives_the_studies_of_a_local_folder(
    in_process: None, s3_client: Any, s3_tree: str, tree: pathlib.Path
) -> None:
    stored = challenge.discover(sources.open_source(urls.place(s3_tree)))
    local = challenge.discover(sources.open_source(tree))
    assert stored == local
    assert len(local[0]) == 2


def test_names_that_are_no_paths_are_refused_with_a_row(in_process: None, s3_client: Any, s3_tree: str) -> None:
    for name in ("tree/a/../b.dcm", "tree/a//b.dcm", "tree/./c.dcm"):
        s3_client.call_s3("put_object", Bucket=BUCKET, Key=name, Body=b"x")
    source = sources.open_source(urls.place(s3_tree))
    (finding,) = source.findings
    assert finding.detail.startswith("3 objects refused")
    assert not [path for path in source.paths if {"", ".", ".."} & set(path.split("/"))]
