"""Sets of shingles on disk, and their exact Jaccard similarity."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.shingles import HASH_TYPE, shingles

TABLE_BITS = 22  # of the table that counts the shingles two sets may have in common
BLOCK = 1 << 22  # shingles compared at a time
SLACK = 1e-6  # of bounds, which are rounded


class ShingleSets:
    """The distinct shingles of some documents, sorted, in a temporary file that ends with this object.

    Args:
        texts: The documents.
        folder: Where the file is made; by default the system's folder for temporary files.
    """

    def __init__(self, texts: Iterable[str], folder: Path | None = None) -> None:
        sizes = []
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
        self._table = np.zeros(1 << TABLE_BITS, bool)

    def __len__(self) -> int:
        return len(self.sizes)

    def reorder(self, order: np.ndarray) -> None:
        """Number the sets anew: set i is the one that was `order[i]`."""
        self.sizes, self._starts = self.sizes[order], self._starts[order]

    def similarity(self, one: int, others: np.ndarray, at_least: np.ndarray | float) -> np.ndarray:
        """[len(others)] the Jaccard similarity of a set and others; -1 where it is under `at_least`."""
        similarity = np.full(len(others), -1.0)
        least = np.full(len(others), at_least)
        # Two sets cannot be more similar than the smaller is large in relation to the larger.
        sizes, size = self.sizes[others], self.sizes[one]
        able = np.flatnonzero(np.minimum(sizes, size) >= least * np.maximum(sizes, size) - SLACK)
        mine = self._values[self._starts[one] :][:size]
        self._table[mine >> (32 - TABLE_BITS)] = True
        ends = np.cumsum(sizes[able])
        first = 0
        while first < len(able):  # several sets at a time, or a single large one
            last = max(int(np.searchsorted(ends, (ends[first - 1] if first else 0) + BLOCK, side="right")), first + 1)
            here = able[first:last]
            similarity[here] = self._of_block(mine, others[here], least[here])
            first = last
        self._table[mine >> (32 - TABLE_BITS)] = False
        return similarity

    def _of_block(self, mine: np.ndarray, others: np.ndarray, at_least: np.ndarray) -> np.ndarray:
        """As `similarity`, for so many sets as fit into memory; the table knows the shingles of `mine`."""
        sizes = self.sizes[others]
        values = self._values[np.repeat(self._starts[others], sizes) + ranges(sizes)]
        starts = np.cumsum(sizes) - sizes
        # The table holds only a part of each hash, so its count is an upper bound; it is quick and nearly exact.
        maybe = self._table[values >> (32 - TABLE_BITS)]
        bound = np.add.reduceat(maybe, starts, dtype=np.int64)
        able = bound >= at_least * (sizes + len(mine) - bound) - SLACK
        similarity = np.full(len(others), -1.0)
        if able.any():
            wanted = maybe & np.repeat(able, sizes)
            at = np.minimum(np.searchsorted(mine, values[wanted]), len(mine) - 1)
            found = np.zeros(len(values), bool)
            found[wanted] = mine[at] == values[wanted]
            common = np.add.reduceat(found, starts, dtype=np.int64)
            exact = common / (sizes + len(mine) - common)
            similarity = np.where(able & (exact >= at_least), exact, -1.0)
        return similarity
