import itertools
import math
import subprocess
import sys
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from pipeline.errors import RecordsError
from pipeline.order import Point, Schedule, permute, steps_per_epoch

from .helpers import ROOT
from .helpers.schedules import batches_by_definition, schedules


@pytest.mark.parametrize(
    ("count", "seed", "epoch", "golden"),
    [
        (1, 0, 0, [0]),
        (10, 0, 0, [6, 3, 8, 1, 4, 5, 9, 2, 7, 0]),
        (10, 0, 1, [1, 3, 8, 6, 2, 0, 7, 5, 4, 9]),
        (74, 7, 3, [33, 46, 2, 57, 15, 72, 18, 14, 1, 16]),
        (4096, 0, 0, [1778, 1136, 3569, 2105, 489, 2419, 1781, 2370, 3400, 4034]),
        (4097, 0, 0, [1906, 2991, 2715, 3918, 3605, 2312, 444, 3159, 1699, 3638]),
        (
            10**9,
            0,
            0,
            [
                473209508,
                113972087,
                526583574,
                858307986,
                839559884,
                900783751,
                876812564,
                941574198,
                84002781,
                812332481,
            ],
        ),
        (
            2**62,
            2**128 - 1,
            10**6,
            [
                1220073222495221954,
                3806163388151667348,
                204043822526042494,
                1939339931966402774,
                1080316844785483300,
                1002720112526742131,
                3821752013524017694,
                568824535190998036,
                1555126257384132142,
                1370439408332532199,
            ],
        ),
    ],
)
def test_the_order_is_pinned(count: int, seed: int, epoch: int, golden: list[int]) -> None:
    assert permute(np.arange(min(count, 10)), count, seed, epoch).tolist() == golden


def test_every_count_gives_a_permutation() -> None:
    for count in (*range(1, 300), *range(4000, 4200), 8191, 8192, 8193, 100_000):
        order = permute(np.arange(count), count, seed=count, epoch=1)
        assert np.array_equal(np.sort(order), np.arange(count)), count


def test_any_positions_are_computed_alone_or_together() -> None:
    whole = permute(np.arange(5000), 5000, 3, 2)
    assert np.array_equal(permute(np.arange(5000)[::-7], 5000, 3, 2), whole[::-7])
    assert np.concatenate([permute([index], 5000, 3, 2) for index in range(40)]).tolist() == whole[:40].tolist()


def test_another_process_computes_the_same_order() -> None:
    code = "from pipeline.order import permute; print(permute(range(20), 1000, 5, 6).tolist())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == str(permute(np.arange(20), 1000, 5, 6).tolist())


def test_epochs_and_seeds_differ() -> None:
    # If seed and epoch were words of one list, 2**32 and (0, 1) would be the same entropy.
    orders = {
        tuple(permute(np.arange(30), 30, seed, epoch))
        for seed in (0, 1, 2, 2**32, 2**64, 2**96)
        for epoch in (0, 1, 2, 2**32)
    }
    assert len(orders) == 24


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 31, 33, 64])
def test_positions_are_uniform_and_neighbors_independent(count: int) -> None:
    epochs = 400 * count
    orders = np.array([permute(np.arange(count), count, 11, epoch) for epoch in range(epochs)])
    places = np.array([np.bincount(orders[:, index], minlength=count) for index in range(count)])
    expected = epochs / count
    # Row and column sums are fixed, so (count - 1)^2 degrees of freedom; the variance of an entry is that of a
    # permutation matrix, epochs (count - 1) / count^2, hence the factor.
    statistic = ((places - expected) ** 2 / expected).sum() * (count - 1) / count
    assert stats.chi2.sf(statistic, (count - 1) ** 2) > 1e-4

    following = np.zeros((count, count))
    np.add.at(following, (orders[:, :-1].ravel(), orders[:, 1:].ravel()), 1)
    pairs = following[~np.eye(count, dtype=bool)]
    assert stats.chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("varied", ["seed", "epoch"])
def test_every_order_is_as_frequent_as_any_other(count: int, varied: str) -> None:
    arguments = [{"seed": 5, "epoch": 5, varied: number} for number in range(1000 * math.factorial(count))]
    orders = np.array([permute(np.arange(count), count, **one) for one in arguments])
    seen, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(seen) == math.factorial(count)
    assert stats.chisquare(counts).pvalue > 1e-3


def _is_odd(order: np.ndarray) -> bool:
    """Whether it takes an odd number of exchanges: a cycle of n takes n - 1."""
    left, exchanges = set(range(len(order))), 0
    while left:
        at = start = left.pop()
        while (at := int(order[at])) != start:
            left.remove(at)
            exchanges += 1
    return exchanges % 2 == 1


@pytest.mark.parametrize("count", [4, 16, 4096, 8192])
def test_odd_orders_are_as_frequent_as_even_ones(count: int) -> None:
    """Also for a count that is a power of two, for which a Feistel network alone gives only even orders."""
    odd = sum(_is_odd(permute(np.arange(count), count, seed, 0)) for seed in range(64))
    assert stats.binomtest(odd, 64).pvalue > 1e-3


def _as_documented(count: int, seed: int, epoch: int) -> list[int]:
    """The order in plain integers, as its docstring defines it; PCG64 as in O'Neill (2014), XSL RR 128/64."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    if count <= 4096:
        words = [int(word) for word in sequence.generate_state(4, np.uint64)]
        increment = 2 * (words[2] << 64 | words[3]) + 1
        state = increment + (words[0] << 64 | words[1])

        def step() -> None:
            nonlocal state
            state = (state * 0x2360ED051FC65DA44385DF649FCCF645 + increment) % 2**128

        def word() -> int:
            step()
            mixed, turn = (state >> 64 ^ state) % 2**64, state >> 122
            return (mixed >> turn | mixed << 64 - turn) % 2**64

        step()
        keys = [word() for _ in range(count)]
        return sorted(range(count), key=keys.__getitem__)
    k = [int(word) for word in sequence.generate_state(9, np.uint64)]
    bits = (count - 1).bit_length()

    def f(value: int, key: int, n: int) -> int:
        x = (value ^ key) * 0x9E3779B97F4A7C15 % 2**64
        return (x ^ x >> 32) * 0xD6E8FEB86659FD93 % 2**64 >> 64 - n

    def position(number: int) -> int:
        left, right = divmod(number, 2 ** (bits - bits // 2))
        for r in range(8):
            if r % 2 == 0:
                left ^= f(right, k[r], bits // 2)
            else:
                right ^= f(left, k[r], bits - bits // 2)
        result = left * 2 ** (bits - bits // 2) + right
        return position(result) if result >= count else result

    return [{0: 1, 1: 0}.get(position(i), position(i)) if k[8] % 2 else position(i) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 100, 4096, 4097, 5000])
def test_the_order_is_what_its_documentation_says(count: int) -> None:
    for seed, epoch in ((0, 0), (1, 0), (2**100 + 3, 77)):
        assert permute(np.arange(count), count, seed, epoch).tolist() == _as_documented(count, seed, epoch)


def _schedule(arguments: dict) -> tuple[Schedule, Point]:
    schedule = Schedule(**{key: value for key, value in arguments.items() if key != "start_step"})
    return schedule, schedule.advance(Point(0, 0), arguments.get("start_step", 0))


def _batches(**arguments: Any) -> list[list[int]]:
    """The batches of the first iteration."""
    schedule, start = _schedule(arguments)
    return [batch.tolist() for batch, _ in schedule.batches(start)]


@hypothesis.given(schedules)
def test_a_schedule_is_what_its_definition_says(arguments: dict) -> None:
    share = arguments["count"] // (arguments["shard"] or (0, 1))[1]
    if steps_per_epoch(share, arguments["batch_size"], arguments["drop_remainder"]) == 0:
        with pytest.raises(RecordsError, match=r"leave none for each|no batch of"):
            Schedule(**{key: value for key, value in arguments.items() if key != "start_step"})
        return
    schedule, start = _schedule(arguments)
    batches = _batches(**arguments)
    assert batches == batches_by_definition(**arguments)
    assert len(batches) == schedule.steps(start)
    following = [batch.tolist() for batch, _ in schedule.batches(schedule.following(start))]
    assert following == batches_by_definition(**{**arguments, "start_step": arguments["start_step"] + len(batches)})


@hypothesis.given(schedules, st.integers(0, 20))
def test_a_schedule_goes_on_from_any_point_as_if_it_had_not_stopped(arguments: dict, stop: int) -> None:
    try:
        schedule, start = _schedule(arguments)
    except RecordsError:
        hypothesis.reject()
    whole = [(batch.tolist(), point) for batch, point in schedule.batches(start)]
    stop %= len(whole)
    point = whole[stop][1]
    assert point == schedule.advance(start, stop + 1)
    if stop + 1 < len(whole):
        assert [(batch.tolist(), after) for batch, after in schedule.batches(point)] == whole[stop + 1 :]


@hypothesis.given(
    count=st.integers(1, 60),
    before=st.tuples(st.integers(1, 4), st.integers(1, 9)),
    after=st.tuples(st.integers(1, 4), st.integers(1, 9)),
    stop=st.integers(0, 20),
)
def test_other_workers_finish_an_epoch_without_giving_a_record_twice(
    count: int, before: tuple[int, int], after: tuple[int, int], stop: int
) -> None:
    def workers(number: int, batch_size: int) -> list[Schedule]:
        return [Schedule(count, batch_size, shard=(index, number)) for index in range(number)]

    hypothesis.assume(count >= max(before[0], after[0]))
    first = workers(*before)
    stop = min(stop, first[0].steps_per_epoch - 1)
    seen = [batch.tolist() for one in first for batch, _ in itertools.islice(one.batches(Point(0, 0)), stop)]
    point = first[0].advance(Point(0, 0), stop)
    seen += [batch.tolist() for one in workers(*after) for batch, _ in one.batches(point)]
    records = list(itertools.chain.from_iterable(seen))
    assert len(set(records)) == len(records) > count - before[0] - after[0]


def test_the_size_of_blocks_does_not_change_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"count": 1000, "batch_size": 7, "epochs": 2, "start_step": 5}
    whole = _batches(**arguments)
    monkeypatch.setattr("pipeline.order.POSITIONS_IN_BLOCK", 16)
    assert _batches(**arguments) == whole


def test_workers_together_see_every_record_once() -> None:
    for workers in (2, 3, 5):
        seen = [_batches(count=30, batch_size=4, seed=2, shard=(index, workers)) for index in range(workers)]
        assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(seen))) == list(range(30))


def test_a_schedule_without_epochs_does_not_end() -> None:
    schedule = Schedule(5, 2, epochs=None)
    assert schedule.steps(Point(0, 0)) is None
    assert len(list(itertools.islice(schedule.batches(Point(0, 0)), 100))) == 100


def test_a_schedule_of_a_billion_starts_at_any_step() -> None:
    schedule = Schedule(10**9, 8)
    batch, point = next(schedule.batches(schedule.advance(Point(0, 0), 10**9 // 8 * 3 - 1)))
    assert batch.tolist() == permute(np.arange(10**9 - 8, 10**9), 10**9, 0, 2).tolist()
    assert point == Point(3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard": (0, 11)}, r"10 records leave none for each of 11 workers"),
        ({"batch_size": 11, "drop_remainder": True}, r"no batch of 11 can be made of 10 records; lower batch_size"),
    ],
)
def test_shares_too_small_for_a_batch_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        Schedule(count=10, **arguments)
