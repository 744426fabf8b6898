"""Training samples of several sources in one stream: a share of it for each, and an order of its own for each."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from mlm_dist.batches.block_order import BlockOrder, Blocks
from mlm_dist.batches.order import SampleOrder

WHOLE = ""  # the name of a stream over all rows, without a mix


class SourceOrder:
    """The stream of one source: its samples in their own order, with their own epochs.

    Args:
        name: The source.
        rows: Indices of its rows in the table of a split; at least one.
        seed: The run's seed.
        taken: Samples that came before the stream begins, such as those of earlier phases.
        epochs: Epochs of the same rows in other streams before, which are counted as well: masks depend on the epoch.
        blocks: The blocks of the table if rows are read in blocks; None if they are read one by one.
    """

    def __init__(
        self, name: str, rows: range, seed: int, taken: int = 0, epochs: int = 0, blocks: Blocks | None = None
    ) -> None:
        self.name, self.seed = name, seed
        self._order = SampleOrder(len(rows), seed) if blocks is None else BlockOrder(blocks.of(rows), seed)
        self._first, self._taken, self._epochs = rows.start, taken, epochs

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch of the source, and index of the row, at all positions in [start, stop), int64."""
        epochs, samples = self._order.between(self._taken + start, self._taken + stop)
        return epochs + self._epochs, samples + self._first

    def upcoming(self, position: int) -> list[np.ndarray]:
        """A row of each block that the next positions need, and of each block after those; see `BlockOrder`."""
        if isinstance(self._order, SampleOrder):
            return []
        return [samples + self._first for samples in self._order.upcoming(self._taken + position)]

    def counts(self, position: int) -> dict[str, int]:
        """{source: its samples before a position}, without those that came before the stream."""
        return {self.name: position}


class MixedOrder:
    """Two streams in one, evenly spread, with random access.

    Before position p there are floor(share x p + 1/2) samples of `added`, and the others are of `main`. So position p
    holds a sample of `added` if that number rises from p to p + 1. Both streams keep their order and their epochs.

    Args:
        main: The stream with the larger share.
        added: The other one.
        share: Fraction of the samples that are of `added`, over 0 and at most 1/2.
    """

    def __init__(self, main: Order, added: Order, share: float) -> None:
        self._main, self._added, self._share = main, added, share
        self.seed: int = main.seed

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch of the source, and index of the row, at all positions in [start, stop), int64."""
        stop = max(start, stop)
        counts = np.floor(np.arange(start, stop + 1) * self._share + 0.5).astype(np.int64)
        is_added = np.diff(counts) > 0
        first, last = int(counts[0]), int(counts[-1])
        epochs, samples = np.empty((2, len(is_added)), np.int64)
        epochs[is_added], samples[is_added] = self._added.between(first, last)
        epochs[~is_added], samples[~is_added] = self._main.between(start - first, stop - last)
        return epochs, samples

    def upcoming(self, position: int) -> list[np.ndarray]:
        """As of `SourceOrder`, of both streams."""
        added = self._num_added(position)
        pairs = zip(self._main.upcoming(position - added), self._added.upcoming(added), strict=True)
        return [np.concatenate(pair) for pair in pairs]

    def counts(self, position: int) -> dict[str, int]:
        """{source: its samples before a position}, without those that came before the stream."""
        added = self._num_added(position)
        return self._main.counts(position - added) | self._added.counts(added)

    def _num_added(self, position: int) -> int:
        return int(np.floor(position * self._share + 0.5))


Order: TypeAlias = SourceOrder | MixedOrder


def mixed_order(
    parts: Mapping[str, range],
    mix: Mapping[str, float],
    seed: int,
    taken: Mapping[str, int] | None = None,
    blocks: Blocks | None = None,
) -> Order:
    """The stream of a mix of sources; the order in which `mix` names them makes no difference.

    The two smallest shares are joined until one stream is left (the tree of Huffman, 1952), which keeps the error of
    each share small: at most one sample for up to three sources.

    Args:
        parts: {source: indices of its rows in the table}, in the order of the table.
        mix: {source: share}; the shares are over 0 and add up to about 1. Empty for one stream over all rows.
        seed: The run's seed.
        taken: {source: samples that came before the stream}, `WHOLE` for those of a stream over all rows; 0 for those
            that are not in it.
        blocks: The blocks of the table if rows are read in blocks; None if they are read one by one.
    """
    before = taken or {}
    sizes = {name: len(rows) for name, rows in parts.items()} | {WHOLE: sum(map(len, parts.values()))}
    begun = {name: -(-count // max(1, sizes[name])) for name, count in before.items()}  # epochs of each stream
    if not mix:
        others = max((count for name, count in begun.items() if name != WHOLE), default=0)
        return SourceOrder(WHOLE, range(sizes[WHOLE]), seed, before.get(WHOLE, 0), others, blocks)
    streams: list[tuple[float, int, Order]] = [
        (mix[name], i, SourceOrder(name, rows, seed, before.get(name, 0), begun.get(WHOLE, 0), blocks))
        for i, (name, rows) in enumerate(parts.items())
        if name in mix
    ]
    heapq.heapify(streams)
    while len(streams) > 1:
        share, _, added = heapq.heappop(streams)
        larger, i, main = heapq.heappop(streams)
        heapq.heappush(streams, (share + larger, i, MixedOrder(main, added, share / (share + larger))))
    return streams[0][2]


def samples_per_epoch(rows: Mapping[str, int], mix: Mapping[str, float]) -> float:
    """Samples of a pass over the source that a mix names first; without a mix, over all rows.

    Args:
        rows: {source: its rows}.
        mix: {source: share}.
    """
    first = next(iter(mix), None)
    return float(sum(rows.values())) if first is None else rows[first] * sum(mix.values()) / mix[first]
