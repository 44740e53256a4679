"""The order of an epoch: ``(count, seed, epoch)`` → positions.

Random words come from ``sequence = numpy.random.SeedSequence(seed, spawn_key=(epoch,))``. NumPy guarantees that it,
and ``PCG64``, give the same words in all versions.

Up to 4,096 records, the order is the stable argsort of ``count`` unsigned 64-bit words,
``PCG64(sequence).random_raw``. All ``count!`` orders are equally likely, within the 2^128 states of the sequence.

For more records, the order is a keyed permutation of ``range(count)``. A position is computed from its index alone, so
an epoch can start at any step, a worker computes only its own share, and nothing in memory grows with ``count``::

    k = sequence.generate_state(9, uint64)                  bits = (count - 1).bit_length()
    f(value, key, n) = the upper n bits of m * 0xD6E8FEB86659FD93, where m = (x ^ (x >> 32)),
                       x = (value ^ key) * 0x9E3779B97F4A7C15, all modulo 2^64

A Feistel network permutes the numbers of ``bits`` bits: ``left`` is the upper ``bits // 2`` of them, ``right`` the
rest; for ``r`` = 0 to 7, ``left ^= f(right, k[r], bits // 2)`` if ``r`` is even, else
``right ^= f(left, k[r], bits - bits // 2)``. A result that is not below ``count`` goes through the network again until
it is (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). A Feistel network is
an even permutation, so finally, if ``k[8]`` is odd, positions 0 and 1 are exchanged. The order is pseudorandom,
not cryptographic.

Golden values in the tests pin both orders: a change here would change the order of every existing seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import RecordsError

Positions = npt.NDArray[np.int64]

_ROUNDS = 8

# Odd multipliers with well-spread bits: 2^64 over the golden ratio, and one of Pelle Evensen's "rrmxmx" constants.
_MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))

POSITIONS_IN_BLOCK = 4096
"""Positions are computed this many at a time, which keeps the intermediate arrays in the processor's cache."""

# Sorting this many keys takes about as long as computing as many positions.
_MOST_SORTED = 4096


def permute(indices: npt.ArrayLike, count: int, seed: int, epoch: int) -> Positions:
    """Positions of the records that come at ``indices`` in the order of one epoch.

    Args:
        indices: int ``(n,)``, each in ``[0, count)``.
        count: number of records, from 1 to 2**62.
        seed: any integer from 0 to 2**128 - 1.
        epoch: from 0.

    Returns:
        int64 ``(n,)``, each in ``[0, count)``; over all indices a permutation of ``range(count)``.
    """
    # The epoch is a spawn key: as plain entropy, (seed, epoch) = (2**32, 0) and (0, 1) would give the same state.
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    if count <= _MOST_SORTED:
        # Not the sequence's own words: every second one of them is a function of the same 64 bits.
        order = np.argsort(np.random.PCG64(sequence).random_raw(count), kind="stable")
        return order.astype(np.int64)[np.asarray(indices, np.int64)]
    *keys, exchange = sequence.generate_state(_ROUNDS + 1, np.uint64)
    positions = _walk(np.array(indices, dtype=np.uint64), count, keys)
    return positions ^ ((positions < 2) & bool(exchange & np.uint64(1)))


def _walk(positions: npt.NDArray[np.uint64], count: int, keys: Sequence[np.uint64]) -> Positions:
    """Each position's image under the network, with cycle walking."""
    bits = (count - 1).bit_length()
    left_bits = bits // 2
    right_bits = bits - left_bits
    walking = np.arange(positions.size)
    while walking.size:
        values = positions[walking]
        left = values >> np.uint64(right_bits)
        right = values & np.uint64((1 << right_bits) - 1)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left ^= _mix(right, key, left_bits)
            else:
                right ^= _mix(left, key, right_bits)
        values = (left << np.uint64(right_bits)) | right
        positions[walking] = values
        walking = walking[values >= count]
    return positions.astype(np.int64)


def _mix(values: npt.NDArray[np.uint64], key: np.uint64, bits: int) -> npt.NDArray[np.uint64]:
    """The round function: ``bits`` well-mixed bits of each value and the key."""
    mixed = (values ^ key) * _MULTIPLIERS[0]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MULTIPLIERS[1]
    mixed >>= np.uint64(64 - bits)
    return mixed


class Point(NamedTuple):
    """A point in the sequence of batches.

    Attributes:
        epoch: from 0.
        given: how many positions of this epoch's order were given before, to all workers together.
    """

    epoch: int
    given: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which records each batch consists of.

    Order position ``p`` of an epoch belongs to worker ``p mod n``; the last ``count mod n`` positions of the epoch are
    dropped, so that the shares are equal. A batch never straddles two epochs.

    Iteration ``i`` over the batches has the epochs from ``i * epochs`` to ``(i + 1) * epochs - 1``.

    Args:
        count: number of records.
        batch_size: from 1.
        shuffle: a new permutation each epoch; False gives storage order.
        seed: from 0; one seed and epoch give one order, in every process and on every machine.
        epochs: of one iteration, from 1; None for an iteration that does not end.
        drop_remainder: leave out an epoch's last batch when it is short.
        shard: ``(index, count)`` of this worker, or None.

    Raises:
        RecordsError: the share is too small for one batch.
    """

    count: int
    batch_size: int = 8
    shuffle: bool = True
    seed: int = 0
    epochs: int | None = 1
    drop_remainder: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.count == 0:
            raise RecordsError("there are no records to make batches of; check how they were selected")
        if self.share == 0:
            raise RecordsError(f"{self.count} records leave none for each of {self._worker[1]} workers")
        if self.steps_per_epoch == 0:
            raise RecordsError(
                f"no batch of {self.batch_size} can be made of {self.share} records; lower batch_size, "
                "or leave drop_remainder off"
            )

    @property
    def _worker(self) -> tuple[int, int]:
        return self.shard if self.shard is not None else (0, 1)

    @property
    def share(self) -> int:
        """Records that this worker sees in one epoch."""
        return self.count // self._worker[1]

    @property
    def steps_per_epoch(self) -> int:
        """Batches that this worker sees in one epoch."""
        return self.steps_left(Point(0, 0))

    def steps_left(self, point: Point) -> int:
        """Batches that this worker sees from a point to the end of its epoch."""
        share = (self.count - point.given) // self._worker[1]
        return steps_per_epoch(share, self.batch_size, self.drop_remainder)

    def advance(self, point: Point, steps: int) -> Point:
        """The point after a number of steps from another point, also across the ends of epochs and iterations."""
        left = self.steps_left(point)
        epoch, given = point
        if steps >= left:
            epochs, steps = divmod(steps - left, self.steps_per_epoch)
            epoch, given = epoch + 1 + epochs, 0
        return Point(epoch, given + steps * self.batch_size * self._worker[1])

    def steps(self, start: Point) -> int | None:
        """Batches from a point to the end of its iteration; None when that does not end."""
        end = self._end(start)
        return None if end is None else self.steps_left(start) + (end - start.epoch - 1) * self.steps_per_epoch

    def following(self, start: Point) -> Point:
        """Where the iteration after that of ``start`` starts; after one without end, an epoch later than it did."""
        end = self._end(start)
        return Point(start.epoch + 1 if end is None else end, 0)

    def _end(self, start: Point) -> int | None:
        """The epoch at which the iteration of ``start`` ends."""
        return None if self.epochs is None else (start.epoch // self.epochs + 1) * self.epochs

    def batches(self, start: Point) -> Iterator[tuple[Positions, Point]]:
        """Yields the batches from a point to the end of its iteration.

        Yields:
            The batch's record positions, int64 ``(batch_size,)`` or shorter at an epoch's end, and the point after it.
        """
        index, workers = self._worker
        end = self._end(start)
        epoch, given = start
        steps_in_block = max(1, POSITIONS_IN_BLOCK // self.batch_size)
        while end is None or epoch < end:
            steps = self.steps_left(Point(epoch, given))
            share = (self.count - given) // workers
            for first_step in range(0, steps, steps_in_block):
                last_step = min(first_step + steps_in_block, steps)
                places = np.arange(
                    first_step * self.batch_size, min(last_step * self.batch_size, share), dtype=np.int64
                )
                block = self._order(epoch, given + index + workers * places)
                for step in range(first_step, last_step):
                    begin = (step - first_step) * self.batch_size
                    after = Point(epoch, given + (step + 1) * self.batch_size * workers)
                    yield block[begin : begin + self.batch_size], after if step + 1 < steps else Point(epoch + 1, 0)
            epoch, given = epoch + 1, 0

    def _order(self, epoch: int, indices: Positions) -> Positions:
        """The records at these positions of an epoch's order."""
        return permute(indices, self.count, self.seed, epoch) if self.shuffle else indices


def steps_per_epoch(count: int, batch_size: int, drop_remainder: bool = False) -> int:
    """Batches in one epoch of ``count`` records; a short last batch counts unless it is dropped.

    >>> steps_per_epoch(20, 8), steps_per_epoch(20, 8, drop_remainder=True)
    (3, 2)
    """
    return count // batch_size if drop_remainder else -(-count // batch_size)
