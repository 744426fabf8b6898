"""The result of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_dist.checkpoint.state import Best
from mlm_dist.run_dir import RunDir
from mlm_dist.training.callbacks import Callback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Args:
        step: Steps done.
        is_finished: Whether the run is complete; False if a signal stopped it.
        losses: {step: training loss in nats} of the log lines of this process; None for a loss that is not finite.
        validation: {step: `validation` line of metrics.jsonl} of this process.
        unigram_loss: The unigram baseline; None without a validation set.
        best: The validation with the lowest loss.
        exported_best: Whether the best checkpoint was exported, not the newest.
        run_dir: The run directory, with paths to its files.
    """

    step: int
    is_finished: bool
    losses: Mapping[int, float | None]
    validation: Mapping[int, Mapping[str, Any]]
    unigram_loss: float | None
    best: Best
    exported_best: bool
    run_dir: RunDir

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.run_dir.model

    def log(self) -> None:
        """Log the result for people."""
        if self.validation and self.unigram_loss is not None:
            last = self.validation[max(self.validation)]["loss"]
            difference = self.unigram_loss - (float("nan") if last is None else last)
            logger.info(
                "validation loss %s; unigram baseline %.4f (%.4f %s)",
                "not finite" if last is None else f"{last:.4f}",
                self.unigram_loss,
                abs(difference),
                "better" if difference > 0 else "worse",
            )
        if self.exported_best and self.best.step is not None:
            logger.info("exported step %s, which has the lowest validation loss", f"{self.best.step:,}")
        logger.info("model: %s\nmetrics: %s\nreport: %s", self.model, self.run_dir.metrics, self.run_dir.report)


@dataclass
class History(Callback):
    """A callback that keeps the losses of a run."""

    losses: dict[int, float | None] = field(default_factory=dict)
    validation: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        if metrics is not None:
            self.losses[step] = metrics["loss"]

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self.validation[step] = metrics
