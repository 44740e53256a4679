"""Compares our readers with others: speed, order and memory.

    python -m benchmarks.bench_read --counts 2000 20000 --chart docs/performance.png

Every reader runs in its own process, which reads one epoch untimed and then one timed. The readers take turns, three
times each, and the median counts. Only the ratios carry over to another machine.

    samples/s   over a whole epoch, including the filling of a buffer, but not imports
    first       from the call to the first batch, in milliseconds
    anonymous   peak memory without file pages, in MB; in brackets, the part in use after the imports
    rank        rank correlation of stored and given position: 0 is random, 1 is storage order
    deciles     from how many tenths of the storage a batch draws, relative to a random order
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

from benchmarks import isolated, store
from benchmarks.readers import BATCH_SIZE, GATHER, GATHER_INT16, PLAIN, READERS

_ROUNDS = 3

_KERAS = "make_dataset"
_AIMS = (
    (
        "`iterate_batches`: at least 0.65 of the limit at 2,000 records, 0.5 at 20,000",
        "iterate_batches, prefetch=0",
        GATHER,
    ),
    ("an object made for each epoch: at least 0.45", "iterate_batches, prefetch=0, a new object each epoch", GATHER),
    ("int16: at least 0.4", "iterate_batches, prefetch=0, int16", GATHER_INT16),
    ("int16, no CRC: at least 0.75", "iterate_batches, prefetch=0, no CRC, int16", GATHER_INT16),
    ("`make_dataset`: at least 0.25", _KERAS, GATHER),
)
"""What is aimed at, the reader, and the limit it is compared with."""


def _anonymous_mb() -> float:
    """Memory of this process without file pages, as the kernel counts it."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def _measure(name: str, root: pathlib.Path, count: int) -> dict[str, float]:
    """Reads two epochs; returns the second's speed, and the other columns."""
    reader = READERS[name]
    path = reader.prepare(root, count)
    for module in reader.modules:
        importlib.import_module(module)
    memory = [_anonymous_mb()]
    begin = time.perf_counter()
    epochs = reader.begin(path, count)
    positions = []
    first = 0.0
    for step, (images, _) in enumerate(next(epochs)):
        first = first or time.perf_counter() - begin
        # The store numbers each image in its first pixel.
        positions.append(images[:, 0, 0, 0].astype(np.int64))
        if step % 50 == 0:
            memory.append(_anonymous_mb())
    begin = time.perf_counter()
    steps = sum(1 for _ in next(epochs))
    seconds = time.perf_counter() - begin
    memory.append(_anonymous_mb())
    order = np.concatenate(positions)
    if steps != -(-count // BATCH_SIZE) or not np.array_equal(np.sort(order), np.arange(count)):
        raise RuntimeError(f"{name} did not give every record once")
    deciles = [len(set(batch * 10 // count)) for batch in positions if len(batch) == BATCH_SIZE]
    return {
        "rate": count / seconds,
        "first_ms": first * 1e3,
        "imports_mb": memory[0],
        "peak_mb": max(memory),
        "rank": float(np.corrcoef(order, np.arange(count))[0, 1]),
        "deciles": float(np.mean(deciles) / (10 * (1 - 0.9**BATCH_SIZE))),
    }


def _compare(names: list[str], root: pathlib.Path, count: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(_ROUNDS):
        for name in names:
            print(f"{count} records, round {number + 1} of {_ROUNDS}: {name}", file=sys.stderr, flush=True)
            arguments = ["--root", str(root), "--counts", str(count), "--measure", name]
            found[name].append(isolated.measured("benchmarks.bench_read", *arguments))
    return {name: isolated.medians(runs) for name, runs in found.items()}


def _table(count: int, found: dict[str, dict[str, float]]) -> None:
    print(f"\n## {count:,} records\n")
    print("| reader | samples/s | of the limit | × plain | first, ms | anonymous, MB | rank | deciles |")
    print("|---|---|---|---|---|---|---|---|")
    for name, run in found.items():
        limit = found[GATHER_INT16 if "int16" in name else GATHER]["rate"]
        print(
            f"| {name} | {run['rate']:,.0f} | {run['rate'] / limit:.2f} | {run['rate'] / found[PLAIN]['rate']:.1f} "
            f"| {run['first_ms']:,.0f} | {run['peak_mb']:,.0f} ({run['imports_mb']:,.0f}) | {run['rank']:.2f} "
            f"| {run['deciles']:.2f} |"
        )


def _first_batches(root: pathlib.Path, count: int) -> None:
    """Prints the time from the call to the first batch, for several first steps; in a process that is warmed up."""
    from pipeline import iterate_batches, make_dataset

    path = store.records(root, count)
    print("\nMilliseconds to the first batch:\n")
    print("| start_step | iterate_batches, from the call | make_dataset, from `iter()` | its building before that |")
    print("|---|---|---|---|")
    for start_step in (0, count // BATCH_SIZE // 2, 1_000_000):
        times = []
        for _ in range(5):
            moments = [time.perf_counter()]
            next(iter(iterate_batches(path, start_step=start_step)))
            moments.append(time.perf_counter())
            dataset = make_dataset(path, start_step=start_step)
            moments.append(time.perf_counter())
            next(iter(dataset))
            moments.append(time.perf_counter())
            times.append(np.diff(moments) * 1e3)
        ours, building, theirs = np.median(times, axis=0)
        print(f"| {start_step:,} | {ours:.0f} | {theirs:.0f} | {building:.0f} |")


def _aims(results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Prints what the project aims at, beside what was measured."""
    print("\n## Aims and results\n")
    print(f"| aim | {' | '.join(f'{count:,}' for count in results)} |\n|---|{'---|' * len(results)}")
    for aim, name, limit in _AIMS:
        shares = (
            f"{found[name]['rate'] / found[limit]['rate']:.2f}" if name in found else "" for found in results.values()
        )
        print(f"| {aim} | {' | '.join(shares)} |")
    peaks = (f"{found[_KERAS]['peak_mb']:.0f} MB" if _KERAS in found else "" for found in results.values())
    print(f"| peak memory of `{_KERAS}` without file pages: at most 350 MB | {' | '.join(peaks)} |")


def _chart(path: pathlib.Path, results: dict[int, dict[str, dict[str, float]]]) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(10, 0.5 * max(map(len, results.values())) + 1.2), layout="constrained")
    axes: Any = figure.subplots()
    most = max(results.values(), key=len)
    names = list(most)
    height = 0.8 / len(results)
    for offset, (count, found) in enumerate(results.items()):
        rates = [found[name]["rate"] / 1000 if name in found else 0 for name in names]
        places = [row + offset * height for row in range(len(names))]
        axes.barh(places, rates, height, label=f"{count:,} records", color=("#2f6f9f", "#e0913a")[offset % 2])
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name.startswith(("iterate", "make")) else "normal")
    axes.invert_yaxis()
    axes.set_xlabel("thousand samples a second, warm page cache")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 20000], help="records, at most 32,768")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("build/bench"), help="folder for the data")
    parser.add_argument("--chart", type=pathlib.Path, help="draw the speeds into this PNG")
    parser.add_argument("--measure", metavar="READER", help="measure only this reader, in this process")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.measure:
        with contextlib.redirect_stdout(sys.stderr):
            found = _measure(arguments.measure, arguments.root, arguments.counts[0])
        print(json.dumps(found))
        return
    names = [name for name, reader in READERS.items() if reader.installed]
    results = {}
    for count in arguments.counts:
        root = arguments.root / str(count)
        for name in names:
            READERS[name].prepare(root, count)
        results[count] = _compare(names, root, count)
        _table(count, results[count])
        _first_batches(root, count)
    _aims(results)
    for name in sorted(set(READERS) - set(names)):
        print(f"\nnot installed: {name}")
    if arguments.chart:
        _chart(arguments.chart, results)


if __name__ == "__main__":
    main()
