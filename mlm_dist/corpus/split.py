"""The split: which groups of documents are held out, decided by a hash of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlm_dist.corpus.split_labels import TRAIN, VALIDATION
from mlm_dist.corpus.temporary_arrays import blocks, temporary_array
from mlm_dist.corpus.text_keys import numbers


class Split:
    """The draw and the fraction of each group of documents, see `selection.select`.

    Args:
        keys: [n, 16] bytes, the keys of the documents.
        group: [n] the index of a document in the group of each.
        fraction: [n] the fraction to hold out.
        folder: Where temporary files are made; by default the system's folder for them.
    """

    def __init__(self, keys: np.ndarray, group: np.ndarray, fraction: np.ndarray, folder: Path | None) -> None:
        self._group = group
        # The halves of the smallest key of each group, and its smallest fraction.
        self._high, self._low = (temporary_array(len(group), np.uint64, folder) for _ in range(2))
        self._least = temporary_array(len(group), np.float64, folder)
        self._high[:] = self._low[:] = np.iinfo(np.uint64).max
        self._least[:] = 1
        for some in blocks(len(group)):
            np.minimum.at(self._high, group[some], numbers(keys[some])[0])
            np.minimum.at(self._least, group[some], fraction[some])
        for some in blocks(len(group)):
            high, low = numbers(keys[some])
            is_smallest = high == self._high[group[some]]
            np.minimum.at(self._low, group[some][is_smallest], low[is_smallest])

    def hold_out(self, side: np.ndarray, *, may_change: bool) -> None:
        """Hold out the groups whose draw is under their fraction.

        Args:
            side: [n] the sides, all TRAIN; changed in place.
            may_change: Whether the group nearest to its fraction changes sides if one side is empty.
        """
        lowest = nearest_below = np.inf  # of all draws, and of those of groups that may be held out
        highest = nearest_above = -np.inf  # of all draws, and of those of groups that may be trained on
        for some, draw, limit in self._draws():
            side[some][draw < limit] = VALIDATION
            lowest, highest = min(lowest, draw.min()), max(highest, draw.max())
            nearest_below = draw[limit > 0].min(initial=nearest_below)
            nearest_above = draw[limit < 1].max(initial=nearest_above)
        if lowest == highest or not may_change:
            return
        for code, nearest in ((VALIDATION, nearest_below), (TRAIN, nearest_above)):
            if not (side == code).any():
                for some, draw, _ in self._draws():
                    side[some][draw == nearest] = code

    def _draws(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The draws of documents, from 0 to 1, and the fractions under which they are held out, block after block."""
        for some in blocks(len(self._group)):
            group = self._group[some]
            yield some, self._low[group] / 2.0**64, self._least[group]
