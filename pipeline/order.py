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


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which records each batch consists of.

    Order position ``p`` of an epoch belongs to worker ``p mod n``; the last ``count mod n`` positions of the epoch are
    dropped, so that the shares are equal. A batch never straddles two epochs.

    Args:
        count: records in the split.
        batch_size: from 1.
        shuffle: a new permutation each epoch; False gives storage order.
        seed: from 0; one seed and epoch give one order, in every process and on every machine.
        epochs: None repeats without end.
        drop_remainder: leave out an epoch's last batch when it is short.
        start_step: the global step to start at, counted over all epochs.
        shard: ``(index, count)`` of this worker, or None.

    Raises:
        RecordsError: a value is out of its range, or the share is too small for one batch.
    """

    count: int
    batch_size: int = 8
    shuffle: bool = True
    seed: int = 0
    epochs: int | None = None
    drop_remainder: bool = False
    start_step: int = 0
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("batch_size", 1), ("seed", 0), ("start_step", 0)):
            if getattr(self, name) < lowest:
                raise RecordsError(f"{name} is {getattr(self, name)}, at least {lowest} expected")
        if self.epochs is not None and self.epochs < 0:
            raise RecordsError(f"epochs is {self.epochs}, at least 0 expected; None repeats without end")
        index, workers = self._worker
        if not 0 <= index < workers:
            raise RecordsError(f"shard is {self.shard}, (index, count) with 0 <= index < count expected")
        if self.steps_per_epoch == 0:
            raise RecordsError(
                f"no batch of {self.batch_size} can be made of {self.share} records; lower batch_size, "
                "or leave drop_remainder off"
                if self.share
                else f"{self.count} records leave none for each of {workers} workers"
            )
        if self.steps is not None and self.steps < 0:
            raise RecordsError(
                f"start_step is {self.start_step}, at most {self.steps + self.start_step} expected: "
                f"{self.epochs} epochs of {self.steps_per_epoch} steps"
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
        return steps_per_epoch(self.share, self.batch_size, self.drop_remainder)

    @property
    def steps(self) -> int | None:
        """Batches from ``start_step`` to the end, None when they have no end."""
        return None if self.epochs is None else self.epochs * self.steps_per_epoch - self.start_step

    def batches(self) -> Iterator[Positions]:
        """Yields each batch's record positions in the split, int64 ``(batch_size,)`` or shorter at an epoch's end."""
        epoch, step = divmod(self.start_step, self.steps_per_epoch)
        steps_in_block = max(1, POSITIONS_IN_BLOCK // self.batch_size)
        while self.epochs is None or epoch < self.epochs:
            while step < self.steps_per_epoch:
                stop = min(step + steps_in_block, self.steps_per_epoch)
                block = self._positions(epoch, step * self.batch_size, stop * self.batch_size)
                for first in range(0, block.size, self.batch_size):
                    yield block[first : first + self.batch_size]
                step = stop
            epoch, step = epoch + 1, 0

    def _positions(self, epoch: int, start: int, stop: int) -> Positions:
        """Record positions at ``[start, stop)`` of this worker's share of one epoch."""
        index, workers = self._worker
        indices = index + workers * np.arange(start, min(stop, self.share), dtype=np.int64)
        return permute(indices, self.count, self.seed, epoch) if self.shuffle else indices


def steps_per_epoch(count: int, batch_size: int, drop_remainder: bool = False) -> int:
    """Batches in one epoch of ``count`` records; a short last batch counts unless it is dropped.

    >>> steps_per_epoch(20, 8), steps_per_epoch(20, 8, drop_remainder=True)
    (3, 2)
    """
    return count // batch_size if drop_remainder else -(-count // batch_size)
