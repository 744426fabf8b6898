"""Progress of training: a bar on a terminal, log lines elsewhere; on rank 0 only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlm_dist.console import console, is_log_shown
from mlm_dist.training.callbacks import Callback

logger = logging.getLogger(__name__)


class TrainingProgress(Callback):
    """A callback and a context manager around the loop.

    Args:
        num_steps: Steps of the whole run, if they are known before the first; else the train lines hold an estimate.
        is_main: Whether this process shows anything.
    """

    def __init__(self, num_steps: int | None, *, is_main: bool) -> None:
        self._num_steps, self._is_main = num_steps, is_main
        self._bar: Progress | None = None
        if is_main and console.is_terminal and is_log_shown():
            columns = (
                TextColumn("[bold]train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=num_steps)

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, facts: Mapping[str, object]) -> None:
        """Log the `start` line of metrics.jsonl, a name and a value per line."""
        if self._is_main:
            logger.info("\n".join(f"{name.replace('_', ' '):<22}{_shown(value)}" for name, value in facts.items()))

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        if metrics is None or not self._is_main:
            return
        text = (
            f"loss {_number(metrics['loss'])}  lr {metrics['learning_rate']:.2e}  grad norm "
            f"{_number(metrics['grad_norm'])}  {metrics['tokens_per_second']:,.0f} tokens/s"
        )
        if metrics["spike"]:
            text += "  (loss spike)"
        num_steps = metrics.get("steps", self._num_steps)
        if self._bar is not None:
            self._bar.update(self._task, description=text, total=num_steps)
        else:
            total = str(num_steps or "?")
            logger.info("step %s/%s  %s", str(step).rjust(len(total)), total, text)

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if not self._is_main:
            return
        text = (
            f"validation at step {step}: loss {_number(metrics['loss'])}, perplexity {_number(metrics['perplexity'])}, "
            f"accuracy {metrics['accuracy']:.1%} of {metrics['masked_tokens']:,} masked tokens"
        )
        if bands := describe_bands(metrics):
            text += f" ({bands})"
        if "second_loss" in metrics:
            loss, accuracy = _number(metrics["second_loss"]), metrics["second_accuracy"]
            text += f"; second source: loss {loss}, accuracy {accuracy:.1%}"
        logger.info(text)


def describe_bands(line: Mapping[str, Any]) -> str:
    """The accuracies of a validation line by band, such as "frequent 40.0%, rare 2.5%"."""
    bands = {name.removeprefix("accuracy_"): value for name, value in line.items() if name.startswith("accuracy_")}
    return ", ".join(f"{name} {value:.1%}" for name, value in bands.items() if value is not None)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
