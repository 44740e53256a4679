"""Memory for arrays that is used again as soon as nothing refers to the former array."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import mmap
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

# Of one size: an array that is being filled, one that waits, and two whose parts others still use.
_MOST_KEPT = 4


@dataclasses.dataclass
class _Block:
    """Memory, and a weak reference to the array that has it. Every view of that array keeps the array alive."""

    content: mmap.mmap
    array: weakref.ref[npt.NDArray[Any]] | None = None

    @property
    def free(self) -> bool:
        return self.array is None or self.array() is None


class ReusedMemory:
    """Gives uninitialized arrays in memory that was used before.

    Memory that comes from the system costs a page fault for every page, which takes as long as reading the records
    (docs/PERFORMANCE.md). Arrays begin at a page, so TensorFlow takes them without a copy. At most four blocks are
    kept; others are freed with their arrays. Several threads may ask for arrays at the same time.
    """

    def __init__(self) -> None:
        self._blocks: collections.deque[_Block] = collections.deque(maxlen=_MOST_KEPT)
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An uninitialized, writable array that shares no memory with another living array."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            free = (block for block in self._blocks if block.free and len(block.content) == size)
            block = next(free, None)
            if block is None:
                block = _Block(_mapped(size))
                self._blocks.append(block)
            array = np.frombuffer(block.content, dtype)
            block.array = weakref.ref(array)
        return array.reshape(shape)


def _mapped(size: int) -> mmap.mmap:
    content = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Large pages need fewer page faults; a system without them refuses.
    with contextlib.suppress(OSError, AttributeError):
        content.madvise(mmap.MADV_HUGEPAGE)
    return content
