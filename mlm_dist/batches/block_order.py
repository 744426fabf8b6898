"""The order of samples that are read in blocks: consecutive steps need few blocks, and each block once per epoch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mlm_dist import hashing
from mlm_dist.batches.order import BLOCK, SampleOrder

PAIRS_SHUFFLED = 64  # rows of pairs that are shuffled together, about a global batch
GROUP_TOKENS = 1 << 26  # positions of the rows that are shuffled together: 270 MB
BLOCKS, ROWS = 0xB10C, 0x2035  # parts of keys that keep the permutations of blocks and of rows apart


@dataclass(frozen=True)
class Blocks:
    """The blocks of a table of rows, and how many of them are shuffled together.

    Args:
        sizes: [blocks] rows of each block, in the order of the table; each has at least one.
        group_rows: Rows of a group: blocks are added to a group until it has so many.
    """

    sizes: np.ndarray
    group_rows: int

    def of(self, rows: range) -> Blocks:
        """Those of some rows, which begin and end with a block."""
        stops = np.cumsum(self.sizes)
        here = self.sizes[(stops > rows.start) & (stops <= rows.stop)]
        if int(here.sum()) != len(rows):
            raise ValueError(f"{rows} are no whole blocks")
        return Blocks(here, self.group_rows)


class _Epoch(NamedTuple):
    """The blocks of an epoch in their order.

    Args:
        blocks: [blocks] which block comes when.
        starts: [blocks] rows of the epoch before each.
        groups: [groups + 1] rows of the epoch before each group, and all rows.
    """

    blocks: np.ndarray
    starts: np.ndarray
    groups: np.ndarray


class BlockOrder:
    """The endless stream of samples, as `SampleOrder`, in groups of blocks.

    Each epoch permutes the blocks, divides them into groups, and permutes the rows of each group. Both are the
    permutations of `SampleOrder`, so that any position can be computed alone. Memory grows with the number of blocks.

    Args:
        blocks: The blocks; at least one.
        seed: The run's seed.
    """

    def __init__(self, blocks: Blocks, seed: int) -> None:
        self._sizes, self._group_rows, self._seed = blocks.sizes, blocks.group_rows, seed
        self._first = np.cumsum(self._sizes) - self._sizes
        self.num_samples = int(self._sizes.sum())
        self._order = SampleOrder(len(self._sizes), int(hashing.key(seed, BLOCKS)))
        self._epoch = lru_cache(maxsize=2)(self._arranged)
        self._part = lru_cache(maxsize=4)(self._permuted)

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and sample at all positions in [start, stop), int64."""
        epochs, samples = np.empty((2, max(0, stop - start)), np.int64)
        done = start
        while done < stop:
            epoch, group, low, high = self._group(done)
            part, within = divmod(done % self.num_samples - low, BLOCK)
            places = low + self._part(epoch, group, high - low, part)[within : within + stop - done]
            here = slice(done - start, done - start + len(places))
            arranged = self._epoch(epoch)
            index = np.searchsorted(arranged.starts, places, side="right") - 1
            epochs[here] = epoch
            samples[here] = self._first[arranged.blocks[index]] + places - arranged.starts[index]
            done += len(places)
        return epochs, samples

    def upcoming(self, position: int) -> list[np.ndarray]:
        """The first sample of each block in the group of a position, and of each in the group after it."""
        epoch, _, _, high = self._group(position)
        return [self._blocks_at(position), self._blocks_at(epoch * self.num_samples + high)]

    def _blocks_at(self, position: int) -> np.ndarray:
        epoch, _, low, high = self._group(position)
        arranged = self._epoch(epoch)
        first, last = np.searchsorted(arranged.starts, (low, high))
        found: np.ndarray = self._first[arranged.blocks[first:last]]
        return found

    def _group(self, position: int) -> tuple[int, int, int, int]:
        """The epoch and group of a position, and the rows of the epoch before the group and up to its end."""
        epoch, offset = divmod(position, self.num_samples)
        groups = self._epoch(epoch).groups
        group = int(np.searchsorted(groups, offset, side="right")) - 1
        return epoch, group, int(groups[group]), int(groups[group + 1])

    def _permuted(self, epoch: int, group: int, size: int, part: int) -> np.ndarray:
        """The samples of a group at `BLOCK` of its positions, counted from the begin of the group."""
        order = SampleOrder(size, int(hashing.key(self._seed, ROWS, epoch, group)))
        return order.at(np.arange(part * BLOCK, min((part + 1) * BLOCK, size)))[1]

    def _arranged(self, epoch: int) -> _Epoch:
        count = len(self._sizes)
        blocks = self._order.at(np.arange(epoch * count, (epoch + 1) * count))[1]
        sizes = self._sizes[blocks]
        starts = np.cumsum(sizes) - sizes
        begins = np.diff(starts // self._group_rows, prepend=-1) > 0
        return _Epoch(blocks, starts, np.append(starts[begins], self.num_samples))
