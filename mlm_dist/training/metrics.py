"""The metrics of a run: metrics.jsonl first, the trackers beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlm_dist.checkpoint.contents_check import is_count
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError
from mlm_dist.files import write_bytes
from mlm_dist.objectives.contrastive import TERM
from mlm_dist.objectives.figures import Validation, finite
from mlm_dist.training.step import StepResult
from mlm_dist.training.validated_rows import rows_of, validated_rows

_OF_THE_END = ("average", "end")  # lines that the end of a run writes, again if it is run again


class Metrics:
    """Writes the lines of metrics.jsonl. Every rank makes one and calls it; rank 0 writes.

    Args:
        engine: The engine, whose trackers get the same values.
        path: metrics.jsonl.
        state: The state that the run starts from; later lines of an earlier process are removed.
    """

    def __init__(self, engine: Engine, path: Path, state: TrainState) -> None:
        self._engine, self._path = engine, path
        # The validation losses of the whole run and their rows, by step; on rank 0, which alone uses the file.
        self._losses: dict[int, float] = {}
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._rows_now: tuple[Any, ...] = ()
        if engine.is_main:
            lines = [
                line for line in read(path) if line["kind"] not in _OF_THE_END and (line.get("step") or 0) <= state.step
            ]
            kept = lines if state.step else []
            write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            losses = ((line["step"], line["loss"]) for line in kept if line["kind"] == "validation" and "loss" in line)
            self._losses = {step: math.nan if loss is None else loss for step, loss in losses}
            self._rows = validated_rows(kept)
        # Kept open while the run lasts and flushed line by line, so that a killed run leaves whole lines.
        self._file = open(path, "a", encoding="utf-8") if engine.is_main else None  # noqa: SIM115
        self._tokens_at_last_line = int(state.tokens)
        self._seconds = 0.0
        self._last_loss: float | None = None
        self._since = time.perf_counter()
        self._pauses = 0  # nested

    def start(self, **facts: Any) -> None:
        """Write the `start` line: numbers and short names."""
        self._rows_now = rows_of(facts)
        self._write("start", facts)

    @property
    def validation_losses(self) -> dict[int, float]:
        """The validation losses of the run on the rows of its last validation, by step; on rank 0."""
        last = self._rows.get(max(self._losses, default=0))
        return {step: loss for step, loss in self._losses.items() if self._rows.get(step) == last}

    def train_line(
        self, state: TrainState, result: StepResult, terms: tuple[str, ...], lr: float, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the `train` line of a step; collective, waits for the device.

        `step`, `samples`, `tokens` and `skipped_steps` are totals of the run; `loss`, `masked_tokens` and `grad_norm`
        belong to this step; `tokens_per_second` covers the time since the last line, without validations and
        checkpoints; `spike` says whether the loss is one.

        Args:
            state: The state after the step.
            result: The result of the step.
            terms: Names of the terms of the loss; with several, each has a value of its own as well.
            lr: The learning rate of the step.
            more: Further values.
        """
        sums, counts = self._engine.sum(result.loss_sums).tolist(), result.counts.tolist()
        means = [value / max(count, 1) for value, count in zip(sums, counts, strict=True)]
        loss, tokens = finite(sum(means)), int(state.tokens)
        now = time.perf_counter()
        seconds = self._seconds + now - self._since
        line = {
            "step": state.step,
            "loss": loss,
            "learning_rate": lr,
            "grad_norm": finite(float(result.grad_norm)),
            "samples": state.samples,
            "tokens": tokens,
            "pairs" if terms[0] == TERM else "masked_tokens": counts[0],
            "tokens_per_second": round((tokens - self._tokens_at_last_line) / max(seconds, 1e-9), 1),
            "skipped_steps": int(state.skipped_steps),
            "spike": state.loss_average.is_spike(loss),
            **(
                {f"loss_{term}": finite(mean) for term, mean in zip(terms, means, strict=True)}
                if len(terms) > 1
                else {}
            ),
            **more,
        }
        self._tokens_at_last_line, self._seconds, self._since, self._last_loss = tokens, 0.0, now, loss
        self._write("train", line)
        # Trackers draw numbers.
        self._track("train", line | ({"phase": len(state.phases)} if "phase" in line else {}), state.step)
        return line

    def validation_line(self, step: int, result: Validation) -> dict[str, Any]:
        """Write a `validation` line."""
        line = {"step": step, **result.figures()}
        self._losses[step], self._rows[step] = result.loss, self._rows_now
        self._write("validation", line)
        self._track("validation", line, step)
        return line

    def average_line(self, line: Mapping[str, Any]) -> None:
        """Write an `average` line: the validation of averaged weights."""
        self._write("average", line)

    def results(self, state: TrainState, averages: Mapping[str, float | None]) -> None:
        """Hand the results of a finished run to the trackers: losses, tokens and skipped steps.

        Args:
            state: The state at its end.
            averages: {name: validation loss} of averaged weights.
        """
        losses = self.validation_losses
        found: dict[str, float | None] = {
            "train_loss": self._last_loss,
            "validation_loss": finite(losses[max(losses)]) if losses else None,
            "best_validation_loss": min((loss for loss in losses.values() if math.isfinite(loss)), default=None),
            "tokens": int(state.tokens),
            "skipped_steps": int(state.skipped_steps),
            **averages,
        }
        with _disk_errors(f"{self._path.parent}/"):
            self._engine.track_results({name: value for name, value in found.items() if value is not None})

    def end(self, **facts: Any) -> None:
        """Write the `end` line and close the file."""
        self._write("end", facts)
        self.close()

    def sync(self) -> None:
        """Wait until the disk has stored the lines: a checkpoint must not be safe before the lines of its steps."""
        if self._file is not None:
            with _disk_errors(str(self._path)):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; also after a failure."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a line that could not be written, which was reported then
                self._file.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count in tokens_per_second."""
        if not self._pauses:
            self._seconds += time.perf_counter() - self._since
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._since = time.perf_counter()

    def _write(self, kind: str, facts: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        plain = {name: finite(value) if isinstance(value, float) else value for name, value in facts.items()}
        with _disk_errors(str(self._path)):
            self._file.write(json.dumps({"kind": kind, **plain}) + "\n")
            self._file.flush()

    def _track(self, kind: str, line: Mapping[str, Any], step: int) -> None:
        values = {f"{kind}/{name}": value for name, value in line.items() if name != "step" and value is not None}
        with _disk_errors(f"{self._path.parent}/"):
            self._engine.track(values, step)


@contextlib.contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"output_dir: cannot write {name} ({error.strerror}); free some space and run again: the run resumes from "
            "the last checkpoint"
        ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, if it exists; a line that a crash cut short is dropped.

    Raises:
        ConfigError: The file holds something else; the message names the line and the field.
    """
    try:
        texts = path.read_text("utf-8").split("\n") if path.exists() else []
    except UnicodeDecodeError:
        raise ConfigError(
            f"output_dir: {path} is not UTF-8 text; restore it, or remove it to begin a new one"
        ) from None
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if (problem := _problem(line)) is not None:
            raise ConfigError(f"output_dir: line {number} of {path} {problem}; remove that line")
        lines.append(line)
    return lines


def _problem(line: Any) -> str | None:
    """What is wrong with a line of a metrics file; None if it is one."""
    if not isinstance(line, dict):
        return "is not an object"
    if not isinstance(line.get("kind"), str):
        return "has no field kind"
    if line["kind"] in ("train", "validation", "average") and not is_count(line.get("step")):
        return "has no number as field step"
    for name in ("step", "steps", "resumed_from", "best_step"):
        if line.get(name) is not None and not is_count(line[name]):
            return f"has no number as field {name}"
    loss = line.get("loss")
    if "loss" in line and loss is not None and (isinstance(loss, bool) or not isinstance(loss, int | float)):
        return "has no number as field loss"
    return None
