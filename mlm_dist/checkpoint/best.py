"""The validation with the lowest held-out loss: what early stopping and the export go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlm_dist.config import Config


@dataclass(frozen=True)
class Best:
    """The best validation so far. It follows from the held-out losses, which are the same on all processes.

    The model as it was before the first update is not among them: it is no result of training.

    Args:
        loss: Its held-out loss in nats; None while there is none that is finite.
        step: After which update it was.
        since: Validations since then without a better loss.
    """

    loss: float | None = None
    step: int | None = None
    since: int = 0

    def after(self, step: int, loss: float) -> Best:
        """What is best when another validation is there; a loss that is not finite is never better."""
        if step == 0:
            return self
        if loss < (float("inf") if self.loss is None else self.loss):
            return Best(loss, step)
        return Best(self.loss, self.step, self.since + 1)

    def ends(self, config: Config) -> bool:
        """Whether `validation.patience` is used up, so that training ends here."""
        return config.validation.patience is not None and self.since >= config.validation.patience

    def saves(self, step: int, config: Config) -> bool:
        """Whether a checkpoint is due after an update because this is the best one, or the end."""
        return self.ends(config) or (is_exported(config) and self.step == step)

    def facts(self, config: Config) -> dict[str, Any]:
        """What the `end` line says of it, where the best checkpoint is exported."""
        if self.step is None or not is_exported(config):
            return {}
        return {"best_step": self.step, "best_loss": self.loss, "stopped_early": self.ends(config)}

    def describe(self, config: Config) -> str:
        """The same for people, behind the word "model"; nothing where the last checkpoint is exported."""
        if self.step is None or not is_exported(config):
            return ""
        ended = f"; training ended after {self.since} validations without a better one" if self.ends(config) else ""
        return f" of update {self.step:,}, of the lowest held-out loss ({self.loss:.4f}{ended}),"


def is_exported(config: Config) -> bool:
    """Whether the checkpoint with the lowest held-out loss is kept, and is what becomes the model."""
    if config.export.checkpoint is None:
        return config.validation.patience is not None
    return config.export.checkpoint == "best"


def num_kept(config: Config) -> int:
    """Checkpoints that stay on the disk: the last ones, and the best where it is to be exported."""
    return config.checkpoint.keep_last + is_exported(config)
