"""Progress of training: a bar on a terminal, log lines elsewhere; on rank 0 only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from mlm_dist.objectives.figures import sources_of
from mlm_dist.spec import PhaseSpec
from mlm_dist.terminal.console import Output, fitting, is_log_shown, output
from mlm_dist.terminal.stage import Stage
from mlm_dist.terminal.stages import stage
from mlm_dist.training.callbacks import Callback
from mlm_dist.training.result import describe_hours

NOTEBOOK_SECONDS = 15.0  # between the train lines in a notebook

logger = logging.getLogger(__name__)


class TrainingProgress(Callback):
    """A callback and a context manager around the loop.

    Args:
        num_steps: Steps of the whole run, if they are known before the first; else the train lines hold an estimate.
        first: Steps that are done already.
        is_main: Whether this process shows anything.

    Attributes:
        stage: The steps.
    """

    def __init__(self, num_steps: int | None, first: int, *, is_main: bool) -> None:
        self._num_steps, self._first, self._is_main = num_steps, first, is_main
        self.stage = Stage("step", num_steps, first=first)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TrainingProgress:
        if self._is_main:
            self.stage = self._stack.enter_context(stage("step", self._num_steps, first=self._first, leaves_after=None))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()
        if self._is_main and kind is None and self.stage.done > self._first:
            count = f"{self.stage.done - self._first:,} steps"
            self.stage.name, self.stage.result = "training", ", ".join((count, *self.stage.details[:1]))
            logger.info(self.stage.left_behind())

    def show(self, facts: Mapping[str, Any]) -> None:
        """Log what matters of the `start` line of metrics.jsonl; resolved.yaml has the rest."""
        if self._is_main:
            logger.info("\n".join(f"{name:<12}{text}" for name, text in _facts(facts)))

    def begin_phase(self, phase: PhaseSpec, step: int) -> None:
        """Log that one of several phases begins, or goes on after a resume."""
        if self._is_main and phase.name:
            logger.info("phase %s from step %s: %s", phase.name, f"{step + 1:,}", phase.describe())

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        shown, is_first = self.stage, self.stage.done == self._first
        shown.done = step
        if is_first:  # what comes before its end, such as a validation and compiling, comes once
            shown.measure_from_here()
        if metrics is None or not self._is_main:
            return
        shown.total = metrics.get("steps", self._num_steps)
        shown.details = (
            f"loss {_number(metrics['loss'])}" + (" (spike)" if metrics["spike"] else ""),
            f"{metrics['tokens_per_second']:,.0f} tokens/s",
            f"lr {metrics['learning_rate']:.2e}",
            f"grad norm {_number(metrics['grad_norm'])}",
            *([f"phase {metrics['phase']}"] if "phase" in metrics else []),
        )
        if output is Output.TERMINAL and is_log_shown():
            return  # the bar shows it
        if output is not Output.NOTEBOOK or shown.is_due(NOTEBOOK_SECONDS):
            shown.say()
            logger.info(shown.line())

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if not self._is_main:
            return
        of_tokens = f"loss {_number(metrics['loss'])}"
        first = [of_tokens]
        if "pairs_loss" in metrics:
            found = f"{metrics['pairs_recall_at_1']:.1%} of {metrics['pairs']:,} pairs"
            of_pairs = f"loss on pairs {_number(metrics['pairs_loss'])}, right first {found}"
            first = [of_pairs, f"masked tokens: {of_tokens}"]
        parts = [
            f"validation at step {step}: {first[0]}",
            *first[1:],
            f"accuracy {metrics['accuracy']:.1%} of {metrics['masked_tokens']:,} masked tokens",
        ]
        if sources := sources_of(metrics):
            parts.append(", ".join(f"{name} {_number(metrics[f'source_{name}_loss'])}" for name in sources))
        if bands := describe_bands(metrics):
            parts.append(f"({bands})")
        parts.append(f"perplexity {_number(metrics['perplexity'])}")
        logger.info(fitting(parts))


def describe_bands(line: Mapping[str, Any]) -> str:
    """The accuracies of a validation line by band, such as "frequent 40.0%, rare 2.5%"."""
    bands = {name.removeprefix("accuracy_"): value for name, value in line.items() if name.startswith("accuracy_")}
    return ", ".join(f"{name} {value:.1%}" for name, value in bands.items() if value is not None)


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of a `start` line for people; each fits 80 columns unless a name is long."""
    start = ", from scratch" if facts["from_scratch"] else ""
    yield "model", f"{facts['model']}{start}, {facts['parameters']:,} parameters"
    rows = f"{facts['rows']:,} for training"
    if "validation_rows" in facts:
        rows += f", {facts['validation_rows']:,} for validation (unigram baseline {facts['unigram_loss']:.4f})"
    yield "rows", rows
    sharding, offload = facts["sharding"], facts["offload"]
    hardware = f"{facts['world_size']} x {facts['device']}, {facts['precision']}"
    if facts["world_size"] > 1:
        hardware += f", {sharding}" + (f", {' and '.join(offload)} offloaded" if offload else "")
    yield "hardware", hardware
    batch = f"{facts['global_batch']:,} rows"
    if facts["micro_batch"] != facts["global_batch"]:
        batch += f": {facts['world_size']} x {facts['micro_batch']:,} rows, accumulated {facts['accumulation']} times"
    yield "batch", batch
    length = describe_hours(facts) if "hours" in facts else f"{facts['steps']:,} steps, {facts['samples']:,} rows"
    yield "duration", length
    warmup = f" after {facts['warmup_steps']:,} steps of warm-up" if facts.get("warmup_steps") else ""
    if "phases" in facts:
        yield "phases", ", ".join(facts["phases"])
    yield "optimizer", f"{facts['optimizer']}, {facts['schedule']} from {facts['peak_learning_rate']:.2e}{warmup}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
