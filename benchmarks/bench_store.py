"""Measures reading from a store: how many requests, how many bytes, and how long.

    make test-clients                        # installs moto and s3fs
    python -m benchmarks.bench_store --data_dir=final_data [job write read]

    job      the job, with its data set in a folder and in an archive at s3://
    write    the job, with its records at s3://
    read     an epoch of 600 records in six shards at s3://, with and without room for all of them in the cache

moto serves S3 on this machine. A proxy before it counts requests and, for the job, delays each by 30 ms.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import store
from pipeline import DatasetInfo, Records, iterate_batches
from tests.helpers import stores as served
from tests.helpers.stores import BUCKET, Answer, Proxy

_DELAY_SECONDS = 0.03
_WORKERS = (2, 8)
_RECORDS, _SHARDS = 600, 6


def _delayed(number: int, path: str, answer: Answer) -> Answer:
    time.sleep(_DELAY_SECONDS)
    return answer


@contextlib.contextmanager
def _bucket() -> Iterator[tuple[Proxy, Any]]:
    """A proxy before an S3 server with an empty bucket, and the filesystem of fsspec for it."""
    with served.serving("-m", "moto.server", "-p", "PORT") as port, Proxy(port) as proxy:
        os.environ.update(served.s3_environment(proxy.url))
        import fsspec

        filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
        filesystem.mkdir(BUCKET)
        yield proxy, filesystem


def _archive(data_dir: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(data_dir.rglob("*")):
            archive.write(file, file.relative_to(data_dir))
    return path


def _job(data_dir: pathlib.Path) -> None:
    """Prints the table of the job, for each place of its data."""
    with _bucket() as (proxy, filesystem), tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        archive = _archive(data_dir, folder / "data.zip")
        served.upload(filesystem, data_dir, "data")
        filesystem.put_file(os.fspath(archive), f"{BUCKET}/data.zip")
        proxy.fault = _delayed
        workers = " | ".join(f"seconds, {count} workers" for count in _WORKERS)
        print(f"| data | requests | MB read | {workers} |\n|---|---|---|{'---|' * len(_WORKERS)}")
        places = {
            "local folder": os.fspath(data_dir),
            "local archive": os.fspath(archive),
            "folder at `s3://`": f"s3://{BUCKET}/data",
            "archive at `s3://`": f"s3://{BUCKET}/data.zip",
        }
        for where, place in places.items():
            seconds = []
            for count in _WORKERS:
                proxy.requests.clear()
                proxy.bodies.clear()
                taken = _seconds(place, f"{folder}/{len(os.listdir(folder))}", f"--workers={count}")
                seconds.append(f"{taken:.1f}")
            figures = [f"{len(proxy.requests):,}", f"{sum(proxy.bodies) / 1e6:.0f}"] if proxy.requests else ["", ""]
            print(f"| {where} | {' | '.join([*figures, *seconds])} |", flush=True)


def _write(data_dir: pathlib.Path) -> None:
    """Prints the table of the job's requests for its records, and its seconds beside those with a local directory."""
    with _bucket() as (proxy, _), tempfile.TemporaryDirectory() as name:
        proxy.fault = _delayed
        print("| records | PUT | LIST | GET, HEAD | of the claim | seconds | to a local directory |")
        print("|---" * 7 + "|")
        for what, url, flags in (
            ("one shard", f"s3://{BUCKET}/one", []),
            ("eight shards", f"s3://{BUCKET}/eight", ["--num_shards=8"]),
            ("eight shards, `--overwrite`", f"s3://{BUCKET}/eight", ["--num_shards=8", "--overwrite"]),
        ):
            local = _seconds(data_dir, f"{name}/{len(os.listdir(name))}", *flags)
            proxy.requests.clear()
            stored = _seconds(data_dir, url, *flags)
            kinds = collections.Counter(map(_kind, proxy.requests))
            counts = " | ".join(str(kinds[kind]) for kind in ("PUT", "LIST", "GET", "claim"))
            print(f"| {what} | {counts} | {stored:.1f} | {local:.1f} |", flush=True)


def _kind(request: tuple[str, str]) -> str:
    """What a request is paid as, or ``claim`` for those that write the claim."""
    method, path = request
    if "list-type=2" in path:
        return "LIST"
    if method == "PUT" and "/claim-" in path:
        return "claim"
    if method == "POST" and "?delete" in path:
        return "DELETE"
    return {"HEAD": "GET", "POST": "PUT"}.get(method, method)


def _seconds(data_dir: str | os.PathLike[str], output_dir: str, *flags: str) -> float:
    """Runs the job; returns how long it takes."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "preprocess", f"--data_dir={data_dir}", f"--output_dir={output_dir}", *flags]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def _read(data_dir: pathlib.Path) -> None:
    """Prints the table of an epoch, for each size of the cache and order, and the speeds from a full cache."""
    del data_dir
    with _bucket() as (proxy, filesystem), tempfile.TemporaryDirectory() as name:
        local = pathlib.Path(name, "records")
        local.mkdir()
        store.write_records(local, _RECORDS, _SHARDS)
        served.upload(filesystem, local, "records")
        of_shard = [shard.bytes or 0 for shard in DatasetInfo.load(local).splits["train"].shards]
        url, cache = f"s3://{BUCKET}/records", pathlib.Path(name, "cache")
        print("| cache | order | requests when opened | requests in the epoch | bytes in the epoch |")
        print("|---|---|---|---|---|")
        for room, shards in (("all six shards", _SHARDS + 1), ("two shards", 2.5)):
            for order, shuffle in (("shuffled", True), ("not shuffled", False)):
                with tempfile.TemporaryDirectory(dir=name) as empty:
                    proxy.requests.clear()
                    records = Records(url, cache_dir=empty, cache_bytes=math.ceil(shards * max(of_shard)))
                    opened = len(proxy.requests)
                    proxy.bodies.clear()
                    for _ in iterate_batches(records, shuffle=shuffle, seed=0):
                        pass
                    ratio = sum(proxy.bodies) / sum(of_shard)
                    requests = len(proxy.requests) - opened
                    print(f"| {room} | {order} | {opened} | {requests} | {ratio:.1f} × the shards |", flush=True)
        places = {"a local directory": Records(local), "a cache that holds everything": Records(url, cache_dir=cache)}
        rates: dict[str, list[float]] = {where: [] for where in places}
        for _ in range(6):
            for where, records in places.items():
                begin = time.perf_counter()
                for _ in iterate_batches(records, prefetch=0):
                    pass
                rates[where].append(_RECORDS / (time.perf_counter() - begin))
        print("\n| `iterate_batches` from | records/s |\n|---|---|")
        for where, every in rates.items():
            # The first epoch maps shards, and fetches those of the store.
            print(f"| {where} | {np.median(every[1:]):,.0f} |")


_PARTS = {"job": _job, "write": _write, "read": _read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="folder of studies")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all, if none is named")
    arguments = parser.parse_args()
    for name in arguments.parts or _PARTS:
        _PARTS[name](arguments.data_dir)
        print()


if __name__ == "__main__":
    main()
