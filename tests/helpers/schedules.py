"""Schedules of batches, and their batches by definition."""

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np

from pipeline.order import permute

schedules: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
    drop_remainder=st.booleans(),
    start_step=st.integers(0, 30),
    shard=st.none() | st.integers(1, 4).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)


def batches_by_definition(
    count: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epochs: int,
    drop_remainder: bool,
    start_step: int,
    shard: tuple[int, int] | None,
) -> list[list[int]]:
    """The batches of the first iteration, written as their definition reads."""
    index, workers = shard or (0, 1)
    batches: list[list[int]] = []
    for epoch in itertools.count():
        if epoch % epochs == 0 and len(batches) > start_step:
            break
        order = permute(np.arange(count), count, seed, epoch).tolist() if shuffle else list(range(count))
        share = order[index::workers][: count // workers]
        made = [share[first : first + batch_size] for first in range(0, len(share), batch_size)]
        batches += [batch for batch in made if len(batch) == batch_size or not drop_remainder]
    return batches[start_step:]
