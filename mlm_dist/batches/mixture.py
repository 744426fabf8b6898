"""Two corpora in one stream of samples: the own one, and a share of another against forgetting."""

from __future__ import annotations

import numpy as np

from mlm_dist.batches.order import SampleOrder


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
        stop = max(start, stop)
        counts = np.floor(np.arange(start, stop + 1) * self._share).astype(np.int64)
        is_replayed = np.diff(counts) > 0
        first, last = int(counts[0]), int(counts[-1])
        epochs, samples = np.empty((2, len(is_replayed)), np.int64)
        epochs[is_replayed], others = self._replayed.between(first, last)
        samples[is_replayed] = others + self._own.num_samples
        epochs[~is_replayed], samples[~is_replayed] = self._own.between(start - first, stop - last)
        return epochs, samples
