"""The order of samples: a permutation per epoch with random access, computed instead of stored."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mlm_dist import hashing

ROUNDS = 6
BLOCK = 4096  # positions computed together, which costs little more than one of them


class SampleOrder:
    """The endless stream of samples: position p is sample `permutation(p mod N)` of epoch `p div N`.

    Each epoch's permutation is a balanced Feistel network (Luby & Rackoff, 1988) over the next power of four, applied
    until the value is in [0, N) (cycle walking; Black & Rogaway, 2002). Memory does not grow with N.

    Args:
        num_samples: N, samples in an epoch, at least 1.
        seed: The run's seed.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError("a sample order needs at least one sample")
        self.num_samples, self.seed = num_samples, seed
        self._half_bits = np.uint64(max(1, -(-(num_samples - 1).bit_length() // 2)))
        self._block = lru_cache(maxsize=4)(lambda i: self.at(np.arange(i * BLOCK, (i + 1) * BLOCK)))

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and sample at each position of the stream.

        Args:
            positions: [n] integers, at least 0.

        Returns:
            epochs and samples, both [n], int64; samples in [0, num_samples).
        """
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.num_samples)
        samples = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = self._permute(offsets[here].astype(np.uint64), int(epoch)).astype(np.int64)
        return epochs, samples

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """As `at`, for all positions in [start, stop); faster if calls follow each other along the stream."""
        blocks = [self._block(i) for i in range(start // BLOCK, max(start, stop - 1) // BLOCK + 1)]
        here = slice(start % BLOCK, start % BLOCK + max(0, stop - start))
        epochs, samples = (np.concatenate(parts)[here] for parts in zip(*blocks, strict=True))
        return epochs, samples

    def _permute(self, values: np.ndarray, epoch: int) -> np.ndarray:
        limit = np.uint64(self.num_samples)
        values = self._feistel(values, epoch)
        while (outside := values >= limit).any():
            values[outside] = self._feistel(values[outside], epoch)
        return values

    def _feistel(self, values: np.ndarray, epoch: int) -> np.ndarray:
        bits = self._half_bits
        low = np.uint64((1 << int(bits)) - 1)
        left, right = values >> bits, values & low
        for i in range(ROUNDS):
            left, right = right, left ^ (hashing.key(self.seed, epoch, i, right) & low)
        return (left << bits) | right
