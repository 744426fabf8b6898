"""How many rows an update has and how long they are, where both may grow over the first tokens of a run."""

from __future__ import annotations

import math

import numpy as np

from mlm_dist.config import Config

MOST_SIZES = 16  # between the initial size and the global one; each is a stage of equally many tokens


class Ramp:
    """The batch of every update, a function of the step alone; the same on any topology.

    With `batch.initial_size` the rows of an update grow to `batch.global_size` in stages of equally many tokens, each
    as many whole updates as it takes. With `batch.initial_length` rows are cut into equal pieces of that length, each a
    row to the model, and the pieces double in length, again after equally many tokens, until they are whole rows. No
    token is lost, and the samples and their masks are those of whole rows. Tokens are counted as places of whole rows,
    so that padding makes no difference.

    Args:
        config: The run.
    """

    def __init__(self, config: Config) -> None:
        batch, length = config.batch, config.rows.max_length
        self._samples = (batch.ramp_tokens or 0) / length  # over which both grow
        first, last = batch.initial_size or batch.global_size, batch.global_size
        stages = min(last - first, MOST_SIZES)
        sizes = [round(first + (last - first) * i / stages) for i in range(stages)]
        steps, samples = [0], [0]  # done when each stage begins
        for i, size in enumerate(sizes):
            count = max(0, math.ceil((self._samples * (i + 1) / stages - samples[-1]) / size))
            steps.append(steps[-1] + count)
            samples.append(samples[-1] + count * size)
        self._sizes, self._steps, self._starts = np.array([*sizes, last]), np.array(steps), np.array(samples)
        self._doublings = int(math.log2(length // (batch.initial_length or length)))

    def size(self, step: int) -> int:
        """Rows of an update, over all processes."""
        return int(self._sizes[self._stage(step)])

    def samples_before(self, step: int) -> int:
        """Samples consumed when a step begins."""
        stage = self._stage(step)
        return int(self._starts[stage]) + (step - int(self._steps[stage])) * int(self._sizes[stage])

    def updates(self, samples: int) -> int:
        """Updates that it takes to consume so many samples; the last may be smaller than it could."""
        stage = int(np.searchsorted(self._starts, samples, side="right")) - 1
        return int(self._steps[stage]) + math.ceil((samples - int(self._starts[stage])) / int(self._sizes[stage]))

    def pieces(self, step: int) -> int:
        """Into how many pieces each row of an update is cut: 1, or a power of two."""
        if not self._doublings:
            return 1
        done = self.samples_before(step) / self._samples
        return int(2 ** max(0, self._doublings - math.floor(self._doublings * done)))

    def _stage(self, step: int) -> int:
        return int(np.searchsorted(self._steps, step, side="right")) - 1
