"""Two corpora in one stream of samples: the own one, and a share of another against forgetting."""

from __future__ import annotations

import numpy as np

from mlm_dist.batching.order import SampleOrder
from mlm_dist.batching.shapes import Rows


class MixedOrder:
    """A stream of samples in which a share is replayed, evenly spread, and known for every position without the others.

    Position p is replayed where the whole part of `share` x p grows with it, and is then the sample of that number in
    the order of the replayed rows; all others are the own samples in their own order. So each corpus goes round by
    itself, and an epoch is one of the own corpus.

    Args:
        own: The order of the own samples.
        replayed: The order of the others; in the stream they are numbered behind the own.
        share: Of the stream, over 0 and under 1.
    """

    def __init__(self, own: SampleOrder, replayed: SampleOrder, share: float) -> None:
        self._own, self._replayed, self._share = own, replayed, share
        self.seed = own.seed

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch (of its own corpus) and sample at all positions in [start, stop), int64."""
        counts = np.floor(np.arange(start, max(start, stop) + 1) * self._share).astype(np.int64)
        is_replayed = np.diff(counts) > 0
        first, last = int(counts[0]), int(counts[-1])
        epochs, samples = np.empty((2, len(is_replayed)), np.int64)
        epochs[is_replayed], others = self._replayed.between(first, last)
        samples[is_replayed] = others + self._own.num_samples
        epochs[~is_replayed], samples[~is_replayed] = self._own.between(start - first, max(start, stop) - last)
        return epochs, samples


class JoinedRows:
    """The rows of two tables as one, see `Rows`; those of the second are numbered behind those of the first.

    Args:
        first: A table.
        second: Another one of rows of the same length.
    """

    def __init__(self, first: Rows, second: Rows) -> None:
        self._tables, self._start = (first, second), len(first)

    def __len__(self) -> int:
        return self._start + len(self._tables[1])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        parts = [(here, table.take(own)) for here, table, own in self._split(indices)]
        return _merged(parts, len(indices))

    def windows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        parts = [(here, *table.windows(own)) for here, table, own in self._split(indices)]
        counts = _merged([(here, counts) for here, _, counts in parts], len(indices))
        row = np.repeat(np.arange(len(indices)), counts)
        lengths = np.empty(len(row), np.int32)
        for here, found, _ in parts:
            lengths[here[row]] = found
        return lengths, counts

    def words(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return _merged([(here, table.words(own)) for here, table, own in self._split(indices)], len(indices))

    def _split(self, indices: np.ndarray) -> list[tuple[np.ndarray, Rows, np.ndarray]]:
        """Which of the indices belong to each table, the table, and their numbers in it."""
        is_second = indices >= self._start
        first, second = self._tables
        return [(~is_second, first, indices[~is_second]), (is_second, second, indices[is_second] - self._start)]


def _merged(parts: list[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    found = np.empty((count, *parts[0][1].shape[1:]), parts[0][1].dtype)
    for here, values in parts:
        found[here] = values
    return found
