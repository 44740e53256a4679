"""Measures what we wrote ourselves, beside libraries that do the same.

    python -m benchmarks.bench_libraries [resampling framing order lock pool]

A library that is not installed is left out: ``pip install SimpleITK pebble loky filelock tfrecord``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.order import Point, Positions, Schedule

Result = tuple[str, str]
"""What was measured, and its result."""

_ROUNDS = 5
_POOL_PATIENCE_SECONDS = 30


def _seconds(call: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """The median of several calls, after one to warm up."""
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _library(name: str) -> Any:
    """The module, or None where it is not installed."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None


def resampling() -> Iterator[Result]:
    """One image to larger pixels: milliseconds, and the greatest difference from ours, and the noise that is left."""
    import PIL.Image
    import scipy.ndimage
    import skimage.transform

    from preprocess.geometry.grid import Grid

    size, target = 256, 128
    pixels = np.random.default_rng(0).integers(0, 2000, (size, size)).astype(np.int16)
    floats = pixels.astype(np.float32)
    grid = Grid((size, size), (target, target), (2.0, 2.0), (0.5, 0.5), (0.0, 0.0))
    methods: dict[str, Callable[[], np.ndarray]] = {
        "geometry.grid": lambda: grid.resample(pixels),
        "Pillow resize, float32, bilinear": lambda: np.asarray(
            PIL.Image.fromarray(floats).resize((target, target), PIL.Image.Resampling.BILINEAR)
        ),
        "scipy.ndimage.zoom, linear": lambda: scipy.ndimage.zoom(floats, 0.5, order=1, grid_mode=True, mode="nearest"),
        "scikit-image resize, anti_aliasing": lambda: skimage.transform.resize(
            floats, (target, target), order=1, anti_aliasing=True, preserve_range=True, mode="edge"
        ),
    }
    if itk := _library("SimpleITK"):
        image = itk.GetImageFromArray(floats)
        methods["SimpleITK Resample, linear"] = lambda: itk.GetArrayFromImage(
            itk.Resample(image, (target, target), itk.Transform(), itk.sitkLinear, (0.5, 0.5), (2.0, 2.0))
        )
    reference = methods["geometry.grid"]().astype(np.float64)
    inner = slice(4, -4)
    for name, method in methods.items():
        values = np.asarray(method(), np.float64)
        difference = np.abs(values - reference)[inner, inner].max()
        noise = values[inner, inner].std() / pixels.std()
        result = (
            f"{_seconds(method) * 1e3:.2f} ms, differs by at most {difference:.3g}, {noise:.2f} of the noise remains"
        )
        yield name, result


def framing() -> Iterator[Result]:
    """Frames written and scanned in order, records of 197 KB: pipeline.frames, TensorFlow, the tfrecord package."""
    from pipeline import frames

    count = 2000
    datas = [os.urandom(196_879)] * count
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "shard"

        def write() -> None:
            with path.open("wb") as file:
                for data in datas:
                    file.writelines(frames.frame(data))

        read = _seconds(lambda: sum(1 for _ in frames.scan(path)))
        yield "pipeline.frames", f"written {count / _seconds(write):,.0f}, read {count / read:,.0f} records/s"
        # In a process of its own: it cannot be imported beside TensorFlow.
        program = (
            "import sys, time; from tfrecord.reader import tfrecord_iterator\n"
            "begin = time.perf_counter(); count = sum(1 for _ in tfrecord_iterator(sys.argv[1]))\n"
            "print(f'{count / (time.perf_counter() - begin):,.0f}')"
        )
        command = [sys.executable, "-c", program, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.returncode:
            yield "tfrecord, without checksums", f"read {result.stdout.strip()} records/s"
        if tensorflow := _library("tensorflow"):
            written = path.read_bytes()

            def write_tensorflow() -> None:
                with tensorflow.io.TFRecordWriter(str(path)) as writer:
                    for data in datas:
                        writer.write(data)

            wrote = _seconds(write_tensorflow)
            same = "the same" if path.read_bytes() == written else "other"
            dataset = tensorflow.data.TFRecordDataset(str(path))
            read = _seconds(lambda: sum(1 for _ in dataset))
            yield "TensorFlow", f"written {count / wrote:,.0f} ({same} bytes), read {count / read:,.0f} records/s"


def _first_batch(count: int) -> Positions:
    return next(Schedule(count).batches(Point(0, 0)))[0]


def order() -> Iterator[Result]:
    """The first batch of an epoch: pipeline.order and NumPy's permutation."""
    for count in (4096, 20_000, 100_000_000):
        ours = _seconds(functools.partial(_first_batch, count), 3)
        theirs = _seconds(functools.partial(np.random.default_rng(0).permutation, count), 3)
        yield f"pipeline.order, {count:,} records", f"{ours * 1e3:.2f} ms"
        yield f"NumPy's permutation, {count:,} records", f"{theirs * 1e3:,.2f} ms and {count * 8 / 1e6:,.2f} MB"


def _die_half_way(number: int) -> bytes:
    """A task. The fourth is killed when half of its result is sent."""

    def half(connection: Any, data: bytes, write: object = None) -> None:
        os.write(connection._handle, bytes(data[: len(data) // 2]))
        os.kill(os.getpid(), signal.SIGKILL)

    if number == 3:
        multiprocessing.connection.Connection._send = half  # type: ignore[attr-defined]
    time.sleep(0.1)
    return bytes(1000)


def pool() -> Iterator[Result]:
    """Ten tasks, of which one is killed halfway through sending its result: how many of the others end."""
    context = multiprocessing.get_context("forkserver")
    tasks = range(10)
    executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    pools: dict[str, list[Any]] = {"concurrent.futures": [executor.submit(_die_half_way, number) for number in tasks]}
    if pebble := _library("pebble"):
        process_pool = pebble.ProcessPool(max_workers=2, context=context)
        pools["pebble"] = [process_pool.schedule(_die_half_way, args=[number]) for number in tasks]
    if loky := _library("loky"):
        loky_pool = loky.ProcessPoolExecutor(2)
        pools["loky"] = [loky_pool.submit(_die_half_way, number) for number in tasks]
    deadline = time.monotonic() + _POOL_PATIENCE_SECONDS
    for name, futures in pools.items():
        done, waiting = concurrent.futures.wait(futures, timeout=max(0, deadline - time.monotonic()))
        failed = sum(future.exception() is not None for future in done)
        result = f"after {_POOL_PATIENCE_SECONDS} s {len(done) - failed} done, {failed} failed, {len(waiting)} waiting"
        yield name, result


def lock() -> Iterator[Result]:
    """Whether filelock locks a directory, as the job does."""
    if filelock := _library("filelock"):
        with tempfile.TemporaryDirectory() as name:
            try:
                filelock.FileLock(name).acquire(timeout=0)
                yield "filelock.FileLock", "locks it"
            except (OSError, filelock.Timeout) as error:
                yield "filelock.FileLock", type(error).__name__
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                locked = filelock.lock_descriptor(descriptor, blocking=False)
                yield "filelock.lock_descriptor", "locks it" if locked else "does not lock it"
            finally:
                os.close(descriptor)


_PARTS = {part.__name__: part for part in (resampling, framing, order, lock, pool)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all, if none is named")
    print("| part | of | result |\n|---|---|---|")
    for part in parser.parse_args().parts or _PARTS:
        for name, result in _PARTS[part]():
            print(f"| {part} | {name} | {result} |", flush=True)
    # A pool that waits would wait at exit, too.
    sys.stdout.flush()
    for process in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
