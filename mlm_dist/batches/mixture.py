"""Training samples of two corpora in one stream: the main corpus, and a share of a replayed one."""

from __future__ import annotations

import numpy as np

from mlm_dist.batches.order import SampleOrder


class MixedOrder:
    """A stream of samples with an evenly spread share of replayed ones, with random access.

    Position p holds a replayed sample if floor(share x (p + 1)) > floor(share x p): sample number floor(share x p) of
    the replayed order. All other positions hold the samples of the main order. Each corpus has its own epochs; an epoch
    of the run is one of the main corpus.

    Args:
        main: The order of the main corpus.
        replayed: The order of the replayed corpus; its samples are numbered behind those of the main corpus.
        share: Fraction of the stream that is replayed, over 0 and under 1.
    """

    def __init__(self, main: SampleOrder, replayed: SampleOrder, share: float) -> None:
        self._main, self._replayed, self._share = main, replayed, share
        self.seed = main.seed

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch (of its corpus) and sample at all positions in [start, stop), int64."""
        stop = max(start, stop)
        counts = np.floor(np.arange(start, stop + 1) * self._share).astype(np.int64)
        is_replayed = np.diff(counts) > 0
        first, last = int(counts[0]), int(counts[-1])
        epochs, samples = np.empty((2, len(is_replayed)), np.int64)
        epochs[is_replayed], replayed = self._replayed.between(first, last)
        samples[is_replayed] = replayed + self._main.num_samples
        epochs[~is_replayed], samples[~is_replayed] = self._main.between(start - first, stop - last)
        return epochs, samples
