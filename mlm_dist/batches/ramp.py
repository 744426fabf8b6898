"""The ramp of the batch: how many rows a step has and how long they are, which may grow at the start of a run."""

from __future__ import annotations

import math

import numpy as np

from mlm_dist.spec import BatchSpec

MAX_STAGES = 16  # from the initial size to the global one, each of equally many tokens


class Ramp:
    """The batch of every step, a function of the step; the same on any topology.

    With `batch.initial_size` the rows of a step grow to `batch.global_size` in stages of equally many tokens, each as
    many whole steps as it takes. With `batch.initial_length` rows are cut into equal pieces of that length, each a row
    to the model, and the pieces double in length, again after equally many tokens, until they are whole rows. No token
    is lost, and samples and masks are those of whole rows. Tokens are counted as positions of whole rows, so that
    padding makes no difference.

    Args:
        batch: The batch.
        max_length: Tokens per row.
    """

    def __init__(self, batch: BatchSpec, max_length: int) -> None:
        self._samples = batch.ramp_tokens / max_length  # over which both grow
        first, last = batch.initial_size, batch.global_size
        stages = min(last - first, MAX_STAGES)
        sizes = [round(first + (last - first) * i / stages) for i in range(stages)]
        steps, samples = [0], [0]  # done when each stage begins
        for i, size in enumerate(sizes):
            count = max(0, math.ceil((self._samples * (i + 1) / stages - samples[-1]) / size))
            steps.append(steps[-1] + count)
            samples.append(samples[-1] + count * size)
        self._sizes, self._steps, self._starts = np.array([*sizes, last]), np.array(steps), np.array(samples)
        self._doublings = int(math.log2(max_length // batch.initial_length))

    def size(self, step: int) -> int:
        """Rows of a step, over all processes."""
        return int(self._sizes[self._stage(step)])

    def samples_before(self, step: int) -> int:
        """Samples consumed when a step begins."""
        stage = self._stage(step)
        return int(self._starts[stage]) + (step - int(self._steps[stage])) * int(self._sizes[stage])

    def steps(self, samples: int) -> int:
        """Steps that consume a number of samples; the last one may be smaller than the others."""
        stage = int(np.searchsorted(self._starts, samples, side="right")) - 1
        return int(self._steps[stage]) + math.ceil((samples - int(self._starts[stage])) / int(self._sizes[stage]))

    def pieces(self, step: int) -> int:
        """Into how many pieces each row of a step is cut: 1, or a power of two."""
        if not self._doublings:
            return 1
        done = self.samples_before(step) / self._samples
        return int(2 ** max(0, self._doublings - math.floor(self._doublings * done)))

    def _stage(self, step: int) -> int:
        return int(np.searchsorted(self._steps, step, side="right")) - 1
