"""Records in a store: servers of S3 and Cloud Storage on this machine."""

import collections
import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline import Records, iterate_batches, schema, verify
from preprocess import urls
from preprocess.output import destinations
from preprocess.output.destinations import Objects

from .helpers import PATIENCE_SECONDS, ROOT
from .helpers import stores as served
from .helpers.commands import preprocess
from .helpers.stored import FOLDER, GS, S3, as_local, comparable, job_of, objects
from .helpers.stores import BUCKET, KEY, SECRET, Answer, Fault, Proxy
from .helpers.trees import contents, image

pytestmark = [
    pytest.mark.clients,
    # Clients and servers use deprecated parts of the standard library.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


_SOON = """
import runpy, sys
from preprocess.output import stored
stored.SILENCE_S, stored._BEAT_S = 3, 1
sys.argv[0] = "preprocess"
runpy.run_module("preprocess", run_name="__main__")
"""
"""The command; it takes another job for dead after a few seconds."""


def no_secret(*texts: bytes) -> None:
    for text in texts:
        assert SECRET.encode() not in text
        assert KEY.encode() not in text


def published(data_dir: object, url: str, client: Any, *flags: str) -> dict[str, bytes]:
    """What a job publishes in a store, as a local one writes it; nothing contains credentials."""
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={url}", *flags)
    assert result.returncode == 0, result.stderr
    files = objects(client)
    no_secret(result.stdout.encode(), result.stderr.encode(), *files.values())
    (audit,) = re.findall(rf"^audit: {url}/(.*)$", result.stdout, re.MULTILINE)
    assert audit in files
    return as_local(files)


def local(data_dir: object, path: pathlib.Path, *flags: str) -> dict[str, bytes]:
    """What a job publishes in a directory."""
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={path}", *flags)
    assert result.returncode == 0, result.stderr
    return comparable(contents(path))


def refusal(data_dir: object, url: str, *flags: str) -> str:
    """The only line of a job that publishes nothing, besides log lines; it contains no credentials."""
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={url}", *flags)
    assert result.returncode == 1, result.stderr
    no_secret(result.stdout.encode(), result.stderr.encode())
    (line,) = [line for line in result.stderr.splitlines() if not re.match(r"[IW]\d{4} ", line)]
    return line


@contextlib.contextmanager
def job(data_dir: object, url: str, *flags: str, soon: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A job that runs during a ``with`` block."""
    program = ["-c", _SOON] if soon else ["-m", "preprocess"]
    command = [sys.executable, *program, f"--data_dir={data_dir}", f"--output_dir={url}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        try:
            yield running
        finally:
            running.kill()


def holding(event: threading.Event, released: threading.Event, *words: str) -> Fault:
    """Sets an event when the path of a request has all of some words, and does not answer it before it is released."""

    def hold(number: int, path: str, answer: Answer) -> Answer:
        if all(word in path for word in words):
            event.set()
            released.wait(PATIENCE_SECONDS)
        return answer

    return hold


def test_records_in_s3_have_the_bytes_of_local_ones_and_each_shard_takes_two_requests(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, phantom_records: pathlib.Path, in_process: None
) -> None:
    flags = "--split=val=PHANTOM002", "--num_shards=3", "--workers=2"
    assert published(phantom_dir, S3, s3_client, *flags) == comparable(contents(phantom_records))
    assert list(verify.faults(S3)) == []
    puts = collections.Counter(path.rpartition("/")[2] for method, path in s3.requests if method == "PUT")
    shards = [name for name in puts if ".tfrecord-" in name]
    assert len(shards) == 2 * 6
    assert {puts[name] for name in shards} == {1}
    # Six tables, the manifest, two copies for TFDS; and the claim, every ten seconds.
    assert len([name for name in puts if name not in shards and not name.startswith("claim-")]) == 9
    assert len([path for method, path in s3.requests if method == "GET" and "list-type=2" in path]) <= 20


def test_records_in_cloud_storage_have_the_bytes_of_local_ones(
    gs: Proxy, gs_client: Any, phantom_dir: pathlib.Path, phantom_records: pathlib.Path
) -> None:
    flags = "--split=val=PHANTOM002", "--num_shards=3", "--workers=2"
    stored = published(phantom_dir, GS, gs_client, *flags)
    assert stored == comparable(contents(phantom_records))
    assert published(phantom_dir, GS, gs_client, *flags, "--overwrite") == stored
    result = preprocess(GS, module="pipeline.verify")
    assert result.returncode == 0, result.stdout


def test_records_in_s3_are_read_as_local_ones(
    s3: Proxy,
    s3_client: Any,
    s3_tree: str,
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
    in_process: None,
) -> None:
    flags = "--contours=io", "--num_shards=2"
    local(tree, tmp_path / "records", *flags)
    published(s3_tree, S3, s3_client, *flags)
    expected, records = Records(tmp_path / "records"), Records(S3, cache_dir=tmp_path / "cache")
    assert np.array_equal(records.table, expected.table)
    assert records.content("studies.csv") == expected.content("studies.csv")
    assert len(records) == 4
    for one, other in zip(
        iterate_batches(records, batch_size=3, epochs=1), iterate_batches(expected, batch_size=3, epochs=1), strict=True
    ):
        assert all(map(np.array_equal, one, other))
    for name, records_dir in (("local", tmp_path / "records"), ("stored", S3)):
        places = f"--records_dir={records_dir}", f"--output_dir={tmp_path / name}"
        result = preprocess(f"--data_dir={tree}", *places, module="preprocess.report")
        assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "local") == contents(tmp_path / "stored")


def test_tfds_reads_records_that_were_copied_from_a_store(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="make test-clients installs it")
    published(tree, S3, s3_client, "--num_shards=2")
    (tmp_path / "copy").mkdir()
    for name, content in objects(s3_client).items():
        (tmp_path / "copy" / name).write_bytes(content)
    assert list(verify.faults(tmp_path / "copy")) == []
    read = tfds.builder_from_directory(tmp_path / "copy").as_dataset(
        "train", read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    found = [(each["image"], each["mask"]) for each in tfds.as_numpy(read)]
    batches = iterate_batches(tmp_path / "copy", batch_size=1, shuffle=False, epochs=1, image_dtype=None)
    for (image_, mask), (images, masks) in zip(found, batches, strict=True):
        assert np.array_equal(image_, images[0])
        assert np.array_equal(mask, masks[0])


def test_overwriting_replaces_records_and_nothing_of_the_former_ones_stays(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path, in_process: None
) -> None:
    published(tree, S3, s3_client, "--num_shards=3")
    former = job_of(objects(s3_client))
    line = refusal(tree, S3)
    assert line == f"preprocess: {S3}: exists already; choose another --output_dir, or pass --overwrite"
    flags = "--contours=io", "--num_shards=1", "--overwrite"
    # The copies under the names that TFDS needs are those of the new records, too.
    assert published(tree, S3, s3_client, *flags) == local(tree, tmp_path / "records", *flags)
    assert job_of(objects(s3_client)) != former
    assert list(verify.faults(S3)) == []


def test_records_that_were_copied_to_a_store_are_replaced_like_others(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path, in_process: None
) -> None:
    expected = local(tree, tmp_path / "records")
    served.upload(s3_client, tmp_path / "records", FOLDER)
    assert published(tree, S3, s3_client, "--overwrite") == expected
    assert list(verify.faults(S3)) == []


def test_a_job_that_may_not_publish_leaves_the_former_records(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, in_process: None
) -> None:
    published(tree, S3, s3_client)
    before = objects(s3_client)
    image(tree, 9).write_bytes(b"")
    result = preprocess(f"--data_dir={tree}", f"--output_dir={S3}", "--strict", "--overwrite")
    assert result.returncode == 1
    assert "not published: errors left inputs out" in result.stderr
    assert objects(s3_client) == before
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\n")
    line = refusal(tree, S3, "--overwrite")
    assert f"{S3}: holds records of 1 study that --data_dir does not name (PHANTOM002)" in line
    assert objects(s3_client) == before


@pytest.mark.parametrize(
    ("records", "name", "flags", "detail"),
    [
        (True, "notes.txt", ("--overwrite",), "holds 1 entry that its manifest does not name ('notes.txt')"),
        (True, "checkpoints/a", ("--overwrite",), "holds 1 entry that its manifest does not name ('checkpoints/a')"),
        (True, "job-12-notes.txt", ("--overwrite",), "('job-12-notes.txt')"),
        (False, "notes.txt", ("--overwrite",), "is not a records directory with an intact manifest"),
        (False, "manifest.json", ("--overwrite",), "is not a records directory with an intact manifest"),
        (False, "notes.txt", (), "exists already; choose another --output_dir"),
    ],
)
def test_objects_of_others_are_never_removed(
    records: bool,
    name: str,
    flags: tuple[str, ...],
    detail: str,
    s3: Proxy,
    s3_client: Any,
    tree: pathlib.Path,
) -> None:
    if records:
        published(tree, S3, s3_client)
    s3_client.pipe_file(f"{BUCKET}/{FOLDER}/{name}", b"kept")
    before = objects(s3_client)
    line = refusal(tree, S3, *flags)
    assert line.startswith(f"preprocess: {S3}: ")
    assert detail in line
    assert objects(s3_client) == before


def test_an_object_that_is_put_there_meanwhile_is_kept(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    def putting(number: int, path: str, answer: Answer) -> Answer:
        if path.endswith("audit.csv"):
            s3_client.pipe_file(f"{BUCKET}/{FOLDER}/best.keras", b"kept")
        return answer

    s3.fault = putting
    assert "exists already" in refusal(tree, S3)
    assert objects(s3_client) == {"best.keras": b"kept"}


def test_names_that_a_console_makes_for_folders_do_not_matter(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    s3_client.call_s3("put_object", Bucket=BUCKET, Key=f"{FOLDER}/", Body=b"")
    s3_client.pipe_file(f"{BUCKET}/{FOLDER}-of-others/notes.txt", b"kept")
    result = preprocess(f"--data_dir={tree}", f"--output_dir={S3}")
    assert result.returncode == 0, result.stderr
    assert s3_client.cat_file(f"{BUCKET}/{FOLDER}-of-others/notes.txt") == b"kept"


def test_a_second_job_is_refused_while_the_first_one_lives(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, in_process: None
) -> None:
    arrived, released = threading.Event(), threading.Event()
    s3.fault = holding(arrived, released, ".tfrecord-", "00000-of-00001")
    with job(tree, S3) as first:
        assert arrived.wait(PATIENCE_SECONDS)
        line = refusal(tree, S3, "--overwrite")
        assert line == (f"preprocess: {S3}: another job is writing it now; wait for it, or choose another --output_dir")
        released.set()
        first.communicate(timeout=PATIENCE_SECONDS)
        assert first.returncode == 0
    assert list(verify.faults(S3)) == []
    job_of(objects(s3_client))


def test_of_jobs_that_start_together_one_publishes(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, in_process: None
) -> None:
    with contextlib.ExitStack() as running:
        jobs = [running.enter_context(job(tree, S3)) for _ in range(3)]
        for each in jobs:
            each.communicate(timeout=PATIENCE_SECONDS)
        assert sorted(each.returncode for each in jobs) == [0, 1, 1]
    assert list(verify.faults(S3)) == []
    job_of(objects(s3_client))


@pytest.mark.parametrize(
    ("former", "word"),
    [
        (False, ".tfrecord-"),
        (False, "/manifest.json"),
        (True, "claim-"),
        (True, ".tfrecord-"),
        (True, "pairs.csv"),
        (True, "/manifest.json"),
        (True, "/dataset_info.json"),
        (True, "?delete"),
    ],
)
def test_a_killed_job_leaves_whole_records_or_none_and_the_next_one_removes_its_objects(
    word: str, former: bool, s3: Proxy, s3_client: Any, tree: pathlib.Path, in_process: None
) -> None:
    if former:
        published(tree, S3, s3_client, "--num_shards=2")
    before = objects(s3_client)
    killed = threading.Event()
    arrived, released = threading.Event(), threading.Event()
    # The store has done what the request says; nobody hears of it. Of the manifest, its reading does not count.
    seen: list[str] = []

    def kill(number: int, path: str, answer: Answer) -> Answer:
        method, _ = s3.requests[number - 1]
        if word in path and method in ("PUT", "POST") and not killed.is_set():
            seen.append(path)
            arrived.set()
            released.wait(PATIENCE_SECONDS)
        return answer

    s3.fault = kill
    with job(tree, S3, "--overwrite", "--num_shards=3") as first:
        assert arrived.wait(PATIENCE_SECONDS)
        first.send_signal(signal.SIGKILL)
        first.wait(PATIENCE_SECONDS)
        killed.set()
        released.set()
    after = objects(s3_client)
    if schema.MANIFEST_FILE in after:
        faults = list(verify.faults(S3))
        # What a killed job wrote is no fault of the records that are there; only leftovers are named.
        others = [fault for fault in faults if "not named in the manifest; remove it" not in fault]
        # The copies for TFDS are written after the manifest.
        late = word in ("/manifest.json", "/dataset_info.json")
        assert others == [] or (late and all(re.search(r"/(dataset_info|features)\.json: ", each) for each in others))
        assert len(Records(S3)) > 0
    else:
        assert not former
        assert word not in ("/manifest.json", "/dataset_info.json", "?delete")
    s3.fault = served.no_fault
    with job(tree, S3, "--overwrite", "--num_shards=3", soon=True) as second:
        _, errors = second.communicate(timeout=PATIENCE_SECONDS)
        assert second.returncode == 0, errors
    job_of(objects(s3_client))
    assert list(verify.faults(S3)) == []
    assert set(objects(s3_client)) & {name for name in before if name.startswith("job-")} == set()


def test_a_killed_job_does_not_stop_the_next_one_from_publishing_without_overwrite(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arrived, released = threading.Event(), threading.Event()
    s3.fault = holding(arrived, released, "audit.csv")
    with job(tree, S3) as first:
        assert arrived.wait(PATIENCE_SECONDS)
        first.kill()
        first.wait(PATIENCE_SECONDS)
        released.set()
    assert schema.MANIFEST_FILE not in objects(s3_client)
    result = preprocess(S3, module="pipeline.verify")
    assert result.returncode == 1
    assert "this is not a complete records directory" in result.stdout
    s3.fault = served.no_fault
    with job(tree, S3, soon=True) as second:
        _, errors = second.communicate(timeout=PATIENCE_SECONDS)
        assert second.returncode == 0, errors
    assert "waiting at most 3 s for a sign of life of another job" in errors
    assert "leftovers of a killed job removed" in errors
    assert as_local(objects(s3_client)) == local(tree, tmp_path / "records")


def test_a_job_that_was_taken_for_dead_publishes_nothing(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    def taking(number: int, path: str, answer: Answer) -> Answer:
        if path.endswith("audit.csv"):
            for name in s3_client.find(f"{BUCKET}/{FOLDER}", prefix="claim-"):
                s3_client.rm_file(name)
        return answer

    s3.fault = taking
    line = refusal(tree, S3)
    assert line.startswith(f"preprocess: {S3}: another job or program removed what this job wrote; run the job again")
    assert objects(s3_client) == {}


def test_a_shard_that_disappears_before_publication_ends_the_job(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    def removing(number: int, path: str, answer: Answer) -> Answer:
        if path.endswith("audit.csv"):
            for name in s3_client.find(f"{BUCKET}/{FOLDER}", prefix="job-"):
                if name.endswith("00000-of-00001"):
                    s3_client.pipe_file(name, b"cut")
        return answer

    s3.fault = removing
    assert "another job or program removed what this job wrote" in refusal(tree, S3)
    assert objects(s3_client) == {}


def test_an_interrupted_job_leaves_nothing(s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    arrived, released = threading.Event(), threading.Event()
    s3.fault = holding(arrived, released, ".tfrecord-", "00001-of-00002")
    with job(tree, S3, "--num_shards=2", "--workers=1") as running:
        assert arrived.wait(PATIENCE_SECONDS)
        assert objects(s3_client)
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=PATIENCE_SECONDS)
        released.set()
    assert running.returncode == 1
    assert errors.splitlines()[-1] == "preprocess: interrupted; nothing was published"
    assert objects(s3_client) == {}


@pytest.mark.parametrize("fault", [served.broken, served.busy, served.cut, served.closed, served.slow])
def test_s3_that_fails_often_or_is_slow_changes_no_byte(
    fault: Fault, s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = "--num_shards=4", "--workers=2"
    expected = local(tree, tmp_path / "records", *flags)
    s3.fault = fault
    assert published(tree, S3, s3_client, *flags) == expected
    assert published(tree, S3, s3_client, *flags, "--overwrite") == expected


@pytest.mark.parametrize("fault", [served.broken, served.cut, served.closed])
def test_cloud_storage_that_fails_often_changes_no_byte(
    fault: Fault, gs: Proxy, gs_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = "--num_shards=4", "--workers=2"
    gs.fault = fault
    assert published(tree, GS, gs_client, *flags) == local(tree, tmp_path / "records", *flags)


_DENIED: Answer = (
    403,
    {"content-type": "application/xml"},
    f"<Error><Code>AccessDenied</Code><Message>{KEY} {SECRET}</Message></Error>".encode(),
)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (
            _DENIED,
            "access is denied (PermissionError AccessDenied); check the credentials that the store's own tools use",
        ),
        ((404, {}, b""), "it is not there; create the bucket, or choose another --output_dir"),
        ((500, {}, b""), "the request fails again and again"),
        (None, "check the network and the address of the store, and run the job again"),
    ],
)
@pytest.mark.parametrize("word", ["", ".tfrecord-", "audit.csv"])
def test_a_store_that_does_not_take_records_ends_the_job_in_one_line(
    word: str, answer: Answer | None, detail: str, s3: Proxy, s3_client: Any, tree: pathlib.Path
) -> None:
    def refusing(number: int, path: str, right: Answer) -> Answer | None:
        method, _ = s3.requests[number - 1]
        return answer if word in path and (method == "PUT" or not word) else right

    s3.fault = refusing
    line = refusal(tree, S3)
    assert line.startswith(f"preprocess: {S3}: ")
    assert detail in line
    if word:
        assert objects(s3_client) == {}


@pytest.mark.parametrize("status", [401, 403])
def test_cloud_storage_that_denies_access_is_named(status: int, gs: Proxy, gs_client: Any, tree: pathlib.Path) -> None:
    gs.fault = lambda number, path, right: (status, {}, f'{{"error": {{"message": "{SECRET}"}}}}'.encode())
    line = refusal(tree, GS)
    assert line.startswith(f"preprocess: {GS}: access is denied")


@pytest.mark.parametrize("url", ["s3://no-such-bucket/records", "s3://no-bucket"])
def test_a_bucket_that_does_not_exist_is_named(url: str, s3: Proxy, s3_client: Any, tree: pathlib.Path) -> None:
    line = refusal(tree, url)
    assert line.startswith(f"preprocess: {url}: it is not there; create the bucket, or choose another --output_dir")


def test_a_bucket_of_cloud_storage_that_does_not_exist_is_named(gs: Proxy, gs_client: Any, tree: pathlib.Path) -> None:
    line = refusal(tree, "gs://no-such-bucket/records")
    assert line.startswith("preprocess: gs://no-such-bucket/records: it is not there; create the bucket")


def test_a_name_with_a_pattern_is_refused(s3: Proxy, tree: pathlib.Path) -> None:
    line = refusal(tree, f"s3://{BUCKET}/records[1]")
    assert "has *, ? or [ in its name" in line


@pytest.mark.parametrize("answer", [(500, {}, b""), None])
def test_a_manifest_that_arrived_although_the_store_says_otherwise_is_published(
    answer: Answer | None, s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def lost(number: int, path: str, right: Answer) -> Answer | None:
        method, _ = s3.requests[number - 1]
        return answer if method == "PUT" and path.endswith("/manifest.json") else right

    s3.fault = lost
    assert published(tree, S3, s3_client) == local(tree, tmp_path / "records")


def test_a_job_that_cannot_know_whether_it_has_published_removes_nothing(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, in_process: None
) -> None:
    written = threading.Event()

    def lost(number: int, path: str, right: Answer) -> Answer | None:
        method, _ = s3.requests[number - 1]
        if method == "PUT" and path.endswith("/manifest.json"):
            written.set()
        return None if written.is_set() and "/manifest.json" in path else right

    s3.fault = lost
    assert "the request fails again and again" in refusal(tree, S3)
    s3.fault = served.no_fault
    missing = {f"{S3}/{name}" for name in schema.TFDS_FILES}
    faults = list(verify.faults(S3))
    assert len(faults) == 2
    assert all(any(fault.startswith(name) for name in missing) for fault in faults)


def test_a_shard_whose_records_all_failed_is_not_counted(
    s3: Proxy, s3_client: Any, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    whole = image(tree, 9).read_bytes()
    # The header is intact: only the worker that writes the shard finds out.
    image(tree, 9).write_bytes(whole[: len(whole) - 1000])
    flags = ("--num_shards=1000",)
    expected = local(tree, tmp_path / "records", *flags)
    assert b"unreadable_image" in expected["audit.csv"]
    assert published(tree, S3, s3_client, *flags) == expected


def test_a_large_file_arrives_in_pieces(
    s3: Proxy, s3_client: Any, tmp_path: pathlib.Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(destinations._PIECE_BYTES, "s3", 5 << 20)
    content = np.random.default_rng(0).bytes(12 << 20)
    (tmp_path / "file").write_bytes(content)
    url = urls.place(S3)
    assert isinstance(url, urls.Url)
    written = Objects.of_job(url, "0123456789abcdef")
    written.put(tmp_path / "file", "shard")
    assert written.read("shard") == content
    assert len([path for method, path in s3.requests if method == "PUT"]) == 3


def test_a_store_lists_only_its_own_objects(s3: Proxy, s3_client: Any, in_process: None) -> None:
    url = urls.place(S3)
    assert isinstance(url, urls.Url)
    for job_ in ("0123456789abcdef", "fedcba9876543210"):
        Objects.of_job(url, job_).write("audit.csv", b"")
    one = Objects.of_job(url, "0123456789abcdef")
    assert list(one.listed()) == ["job-0123456789abcdef-audit.csv"]
    one.remove([*one.listed(), "not-there"])
    assert list(objects(s3_client)) == ["job-fedcba9876543210-audit.csv"]
