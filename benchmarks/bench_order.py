"""Measures the order of an epoch: the time for all positions of a billion records, and for a single one.

    python -m benchmarks.bench_order

It reads nothing: the order needs no records.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from pipeline.order import Point, Schedule, permute

_SINGLE = 1000


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**9, help="records")
    count = parser.parse_args().count

    memory = _peak_mb()
    # The sum is a weak check that each position comes once; the tests show it for small counts.
    total = 0
    begin = time.perf_counter()
    for positions, _ in Schedule(count, batch_size=4096).batches(Point(0, 0)):
        total += int(positions.sum())
    seconds = time.perf_counter() - begin
    if total != count * (count - 1) // 2:
        raise RuntimeError(f"the sum of the positions is not that of 0 to {count - 1:,}")
    print(f"| of {count:,} records | time | memory |\n|---|---|---|")
    print(f"| each position of an epoch | {seconds / count * 1e9:.0f} ns | {_peak_mb() - memory:.0f} MB in all |")

    times = []
    for index in np.random.default_rng(0).integers(0, count, _SINGLE):
        begin = time.perf_counter()
        permute([index], count, seed=0, epoch=0)
        times.append(time.perf_counter() - begin)
    median, longest = np.median(times) * 1e6, max(times) * 1e6
    print(f"| a single position | {median:.0f} µs, the longest of {_SINGLE:,} {longest:.0f} µs | |")

    times = []
    for step in np.random.default_rng(0).integers(0, 100 * count // 8, 100):
        begin = time.perf_counter()
        schedule = Schedule(count)
        next(schedule.batches(schedule.advance(Point(0, 0), int(step))))
        times.append(time.perf_counter() - begin)
    print(f"| the first batch of 8, from any step of 100 epochs | {np.median(times) * 1e3:.2f} ms | |")


if __name__ == "__main__":
    main()
