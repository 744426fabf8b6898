"""Sets of shingles on disk, and their exact Jaccard similarity."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.shingles import HASH_TYPE, shingles

# The table that counts the shingles two sets may have in common has this many bits more than a set, within limits.
SPARSE_BITS, MIN_BITS, MAX_BITS = 7, 16, 26
BLOCK = 1 << 20  # shingles compared at a time
SLACK = 1e-6  # of bounds, which are rounded


class ShingleSets:
    """The distinct shingles of some documents, sorted, in a temporary file that ends with this object.

    Args:
        texts: The documents.
        folder: Where the file is made; by default the system's folder for temporary files.
    """

    def __init__(self, texts: Iterable[str], folder: Path | None = None) -> None:
        sizes = array("q")
        # It has no name in the folder, and the system removes it when the process ends in any way.
        with tempfile.TemporaryFile(dir=folder) as file:
            for text in texts:
                distinct = np.unique(shingles(text))
                file.write(distinct.data)
                sizes.append(len(distinct))
            file.flush()
            values = np.memmap(file, HASH_TYPE, "r") if sizes else np.empty(0, HASH_TYPE)
        self._values = np.asarray(values)  # indexing is quicker without the subclass
        self.sizes = np.array(sizes, np.int64)
        """[n] shingles of each set."""
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._table = np.zeros(1 << MAX_BITS, bool)

    def __len__(self) -> int:
        return len(self.sizes)

    def reorder(self, order: np.ndarray) -> None:
        """Renumber the sets: set i is the one that was `order[i]`."""
        self.sizes, self._starts = self.sizes[order], self._starts[order]

    def similarity(self, one: int, others: np.ndarray, at_least: np.ndarray | float) -> np.ndarray:
        """[len(others)] the Jaccard similarity of a set and others; -1 where it is under `at_least`."""
        similarity = np.full(len(others), -1.0)
        least = np.full(len(others), at_least)
        # Two sets cannot be more similar than the smaller is large in relation to the larger.
        sizes, size = self.sizes[others], self.sizes[one]
        able = np.flatnonzero(np.minimum(sizes, size) >= least * np.maximum(sizes, size) - SLACK)
        able = able[np.argsort(self._starts[others[able]])]  # in the order of the file
        mine = self._values[self._starts[one] :][:size]
        shift = np.uint32(32 - min(max(int(size).bit_length() + SPARSE_BITS, MIN_BITS), MAX_BITS))
        self._table[mine >> shift] = True
        ends = np.cumsum(sizes[able])
        first = 0
        while first < len(able):  # several sets at a time, or a single large one
            last = max(int(np.searchsorted(ends, (ends[first - 1] if first else 0) + BLOCK, side="right")), first + 1)
            here = able[first:last]
            # The table holds only a part of each hash, so the count is an upper bound; it is quick and nearly exact.
            bound = self._count(others[here], lambda values: self._table[values >> shift])
            here = here[bound >= least[here] * (sizes[here] + size - bound) - SLACK]
            if len(here):
                common = self._count(
                    others[here], lambda values: mine[np.minimum(np.searchsorted(mine, values), size - 1)] == values
                )
                exact = common / (sizes[here] + size - common)
                similarity[here] = np.where(exact >= least[here], exact, -1.0)
            first = last
        self._table[mine >> shift] = False
        return similarity

    def _count(self, sets: np.ndarray, is_common: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[len(sets)] how many shingles of each set `is_common` finds."""
        starts, sizes = self._starts[sets], self.sizes[sets]
        low, high = int(starts.min()), int((starts + sizes).max())
        if high - low <= 2 * sizes.sum():  # what lies between the sets costs less than taking them one by one
            values, starts = self._values[low:high], starts - low
        else:
            values, starts = self._values[np.repeat(starts, sizes) + ranges(sizes)], np.cumsum(sizes) - sizes
        sums = np.concatenate([[0], np.cumsum(is_common(values), dtype=np.int64)])
        counts: np.ndarray = sums[starts + sizes] - sums[starts]
        return counts
