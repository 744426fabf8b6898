"""The result of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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
        averages: {name: `average` line of metrics.jsonl}: the validation of averaged weights, `ema` or
            `checkpoint_average`.
        exported_average: The name of the average that was exported; None for the weights of a checkpoint.
    """

    step: int
    is_finished: bool
    losses: Mapping[int, float | None]
    validation: Mapping[int, Mapping[str, Any]]
    unigram_loss: float | None
    best: Best
    exported_best: bool
    run_dir: RunDir
    averages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exported_average: str | None = None

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.run_dir.model

    def log(self, advice: Iterable[tuple[str, str]] = ()) -> None:
        """Log the result for people: losses, accuracy, where the files are, and what to do next.

        Args:
            advice: (name, text) of lines to end with.
        """
        lines = list(self._figures())
        if self.exported_best and self.best.step is not None:
            lines.append(("exported", f"step {self.best.step:,}, which has the lowest validation loss"))
        if self.exported_average is not None and self.exported_average in self.averages:
            lines.append(("exported", describe_average(self.averages[self.exported_average])))
        lines += [("model", str(self.model)), ("report", str(self.run_dir.report))]
        lines += [("metrics", str(self.run_dir.metrics))]
        lines += advice
        logger.info("\n".join(f"{name:<18}{text}" for name, text in lines))

    def _figures(self) -> Iterator[tuple[str, str]]:
        """(name, text) of the last validation, the unigram baseline and the first validation."""
        if not self.validation or self.unigram_loss is None:
            return
        first, last = (self.validation[step] for step in (min(self.validation), max(self.validation)))
        is_trained = 0 in self.validation and len(self.validation) > 1

        def compared(text: Callable[[Mapping[str, Any]], str]) -> str:
            return f"{text(last)}; before training {text(first)}" if is_trained else text(last)

        if "pairs_mrr" in last:
            yield "loss on pairs", compared(lambda line: f"{line['pairs_loss']:.4f}")
            yield "right passage", compared(lambda line: f"{line['pairs_recall_at_1']:.1%} first")
        yield "validation loss", compared(_loss)
        difference = self.unigram_loss - (math.nan if last["loss"] is None else last["loss"])
        comparison = f"; the model is {abs(difference):.4f} {'better' if difference > 0 else 'worse'}"
        yield "unigram baseline", f"{self.unigram_loss:.4f}" + ("" if math.isnan(difference) else comparison)
        yield "accuracy", compared(_accuracy)
        for line in self.averages.values():
            yield (
                "averaged weights",
                f"validation loss {_loss(line)}, accuracy {_accuracy(line)}: {describe_average(line)}",
            )


def describe_average(line: Mapping[str, Any]) -> str:
    """What the averaged weights of an `average` line are."""
    if line["average"] == "ema":
        return f"exponential moving average of the weights, decay {line['decay']:g}"
    number = line["checkpoints"]
    return f"mean of the last {number} checkpoint{'' if number == 1 else 's'}, from step {line['first_step']:,}"


def describe_hours(start: Mapping[str, Any]) -> str:
    """The duration of a run with a phase of some hours, by its `start` line."""
    steps = sum(count or 0 for count in (start.get("phases") or {}).values())
    return f"{start['hours']:g} hours" + (f" and {steps:,} steps" if steps else "")


def _loss(line: Mapping[str, Any]) -> str:
    return "not finite" if line["loss"] is None else f"{line['loss']:.4f}"


def _accuracy(line: Mapping[str, Any]) -> str:
    return f"{line['accuracy']:.1%}"


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
