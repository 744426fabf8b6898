"""Skipped steps: named with their samples, and an error if too many follow each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mlm_dist import ranks
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.errors import TrainingError
from mlm_dist.training.step import StepResult

logger = logging.getLogger(__name__)

MAX_IN_A_ROW = 20
NAMED_SAMPLES = 8


class SkippedSteps:
    """Reports skipped steps, without waiting for the device between two reports.

    Args:
        samples_of: Step -> the samples of its global batch, for messages.
    """

    def __init__(self, samples_of: Callable[[int], Sequence[int]]) -> None:
        self._samples_of = samples_of
        self._unreported: list[tuple[int, torch.Tensor]] = []

    def add(self, step: int, result: StepResult) -> None:
        """Add the result of a step, counted from 0."""
        self._unreported.append((step, result.skipped))

    def report(self, state: TrainState, last_good: Callable[[], Path | None]) -> None:
        """Log the steps that were skipped since the last report, on rank 0.

        Args:
            state: The state after the newest of them.
            last_good: The newest checkpoint from before them, if there is one.

        Raises:
            TrainingError: Too many in a row were skipped, up to the newest.
        """
        flags = torch.stack([flag for _, flag in self._unreported]).tolist() if self._unreported else []
        for (step, _), flag in zip(self._unreported, flags, strict=True):
            if flag and ranks.is_main():
                samples = ", ".join(map(str, self._samples_of(step)[:NAMED_SAMPLES]))
                logger.warning(
                    "step %d was skipped: its loss or gradient is not finite; its samples begin with %s",
                    step + 1,
                    samples,
                )
        self._unreported.clear()
        in_a_row = int(state.skipped_in_a_row)
        if in_a_row >= MAX_IN_A_ROW:
            path = last_good()
            how = "run again from the start" if path is None else f"run again with --checkpoint.resume {path}"
            raise TrainingError(
                f"{in_a_row} steps in a row, up to step {state.step}, were not finite; no checkpoint was removed "
                f"since. Lower optim.lr or optim.max_grad_norm, or train in bf16 instead of fp16, and {how}"
            )
