"""The record of a run: metrics.jsonl first, the trackers beside it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.validation import Validation
from mlm_dist.files import write_bytes
from mlm_dist.training.step import StepResult


class Metrics:
    """Collects what updates did and writes a line when one is due. Made and called on every process.

    Between lines it keeps tensors and asks nothing of the device.

    Args:
        accelerator: The processes, its trackers started.
        path: metrics.jsonl; written by the main process alone.
        step: The update the run goes on from; later lines of an earlier try are taken out.
        tokens: Tokens consumed until then.
        skipped_steps: Updates left out until then.
    """

    def __init__(
        self, accelerator: Accelerator, path: Path, step: int = 0, tokens: int = 0, skipped_steps: int = 0
    ) -> None:
        self._accelerator = accelerator
        self._folder = f"{path.parent}/"
        # The held-out losses of the run so far, by step; of the main process, which alone reads and writes the file.
        self.held_out: dict[int, float] = {}
        if accelerator.is_main_process:
            kept = [line for line in read(path) if step and line["kind"] != "end" and line.get("step", 0) <= step]
            lines = "".join(json.dumps(line) + "\n" for line in kept)
            write_bytes(path, lines.encode())
            losses = ((line["step"], line["loss"]) for line in kept if line["kind"] == "validation")
            self.held_out = {at: math.nan if loss is None else loss for at, loss in losses}
        # Kept open for the run's length and flushed line by line, so that a killed run leaves whole lines.
        self._file = open(path, "a", encoding="utf-8") if accelerator.is_main_process else None  # noqa: SIM115
        self._tokens = torch.tensor(tokens, dtype=torch.int64, device=accelerator.device)
        self._tokens_at_last_line = tokens
        self._seconds = 0.0
        self._since = time.perf_counter()
        self._pauses = 0  # that are going on, one inside the other
        self._last: StepResult | None = None
        self.skipped_steps = skipped_steps

    def start(self, **facts: Any) -> None:
        """Write the `start` line."""
        self._write("start", facts)

    def record(self, result: StepResult) -> None:
        """Take note of an update."""
        self._last = result
        self._tokens += result.num_tokens

    @property
    def tokens(self) -> int:
        """Tokens consumed since the run began; waits for the device."""
        return int(self._tokens)

    def train_line(
        self,
        step: int,
        samples: int,
        learning_rate: float,
        is_spike: Callable[[float | None], bool],
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write the `train` line of the update recorded last; a collective.

        `step` counts finished updates; `samples` and `tokens` are totals since the run began; `loss`, `masked_tokens`
        and `grad_norm` belong to this update; `tokens_per_second` is over the time since the last line, validation and
        saving left out; `spike` is what `is_spike` makes of the loss; `more` is recorded as it is.
        """
        assert self._last is not None
        loss_sum = float(self._accelerator.reduce(self._last.loss_sum, "sum"))
        num_masked, tokens = int(self._last.num_masked), self.tokens
        now = time.perf_counter()
        seconds = self._seconds + now - self._since
        loss = _finite(loss_sum / max(num_masked, 1))
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": _finite(float(self._last.grad_norm)),
            "samples": samples,
            "tokens": tokens,
            "masked_tokens": num_masked,
            "tokens_per_second": round((tokens - self._tokens_at_last_line) / max(seconds, 1e-9), 1),
            "skipped_steps": self.skipped_steps,
            "spike": is_spike(loss),
            **more,
        }
        self._tokens_at_last_line, self._seconds, self._since = tokens, 0.0, now
        self._write("train", line)
        self._track("train", line, step)
        return line

    def validation_line(self, step: int, found: Validation) -> dict[str, Any]:
        """Write a `validation` line."""
        line = {"step": step, **found.figures()}
        self.held_out[step] = found.loss
        self._write("validation", line)
        self._track("validation", line, step)
        return line

    def end(self, **facts: Any) -> None:
        """Write the `end` line and close the file."""
        self._write("end", facts)
        if self._file is not None:
            self._file.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count in tokens_per_second."""
        if not self._pauses:
            self._seconds += time.perf_counter() - self._since
        self._pauses += 1
        yield
        self._pauses -= 1
        if not self._pauses:
            self._since = time.perf_counter()

    def _write(self, kind: str, facts: dict[str, Any]) -> None:
        if self._file is None:
            return
        plain = {name: _finite(value) if isinstance(value, float) else value for name, value in facts.items()}
        with _telling_of_the_disk(self._file.name):
            self._file.write(json.dumps({"kind": kind, **plain}) + "\n")
            self._file.flush()

    def _track(self, kind: str, line: dict[str, Any], step: int) -> None:
        values = {f"{kind}/{name}": value for name, value in line.items() if name != "step" and value is not None}
        with _telling_of_the_disk(self._folder):
            self._accelerator.log(values, step=step)


@contextlib.contextmanager
def _telling_of_the_disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"output_dir: cannot write {name} ({error.strerror}); make room and run again: it goes on from the last "
            "checkpoint"
        ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, if there is one; a line that a lost machine cut short is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _finite(value: float) -> float | None:
    """JSON has no NaN or infinity; null stands for them."""
    return value if math.isfinite(value) else None
