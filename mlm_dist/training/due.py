"""What is due after a step: a log line, a validation, a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from mlm_dist.checkpoint.state import Best
from mlm_dist.spec import Spec


@dataclass(frozen=True)
class Due:
    """What is due after a step; each is also due after the last one.

    Args:
        spec: The run.
        step: Steps done.
        num_steps: Steps of the whole run.
    """

    spec: Spec
    step: int
    num_steps: int

    @property
    def log(self) -> bool:
        """Whether a log line is due."""
        return self._is_due(self.spec.logging.every)

    @property
    def validation(self) -> bool:
        """Whether a validation is due."""
        return self._is_due(self.spec.validation.every)

    def checkpoint(self, best: Best) -> bool:
        """Whether a checkpoint is due: by its interval, for the best step, or because training ends."""
        is_best = self.spec.checkpoint.keep_best and best.step == self.step
        return is_best or best.ends_training(self.spec.validation.patience) or self._is_due(self.spec.checkpoint.every)

    def _is_due(self, every: int | None) -> bool:
        return self.step == self.num_steps or (every is not None and self.step % every == 0)
