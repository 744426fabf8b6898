"""How far training is: a bar on a terminal, plain lines everywhere else, on the main process only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress:
    """A context manager around the loop.

    Args:
        num_updates: Updates of the whole run, where they are known beforehand; else the train lines say them.
        is_main: Whether this process talks to people.
    """

    def __init__(self, num_updates: int | None, *, is_main: bool) -> None:
        self._num_updates, self._is_main = num_updates, is_main
        self._bar: Progress | None = None
        if is_main and sys.stdout.isatty():
            columns = (
                TextColumn("[bold]train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns)
            self._task = self._bar.add_task("", total=num_updates)

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def introduce(self, facts: Mapping[str, object]) -> None:
        """Say what is about to happen."""
        for name, value in facts.items():
            text = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
            self._print(f"{name.replace('_', ' '):<22}{text}")

    def advance(self, step: int) -> None:
        """An update is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def train(self, line: dict[str, Any]) -> None:
        """Show a train line."""
        text = (
            f"loss {_number(line['loss'])}  lr {line['learning_rate']:.2e}  grad norm {_number(line['grad_norm'])}  "
            f"{line['tokens_per_second']:,.0f} tokens/s"
        )
        if line["spike"]:
            text += "  (a loss spike)"
        total = str(line.get("steps", self._num_updates) or "?")
        if self._bar is not None:
            self._bar.update(self._task, description=text, total=line.get("steps", self._num_updates))
        else:
            self._print(f"step {line['step']:>{len(total)}}/{total}  {text}")

    def validation(self, line: dict[str, Any]) -> None:
        """Show a validation line."""
        text = (
            f"held out after {line['step']} updates: loss {_number(line['loss'])}, perplexity "
            f"{_number(line['perplexity'])}, accuracy {line['accuracy']:.1%} of {line['masked_tokens']:,} masked tokens"
        )
        if bands := bands_in_words(line):
            text += f" ({bands})"
        if "second_loss" in line:
            text += f"; second source: loss {_number(line['second_loss'])}, accuracy {line['second_accuracy']:.1%}"
        self._print(text)

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._is_main:
            print(text, flush=True)


def bands_in_words(line: Mapping[str, Any]) -> str:
    """The accuracies of a validation line by band, such as "frequent 40.0%, rare 2.5%"."""
    bands = {name.removeprefix("accuracy_"): value for name, value in line.items() if name.startswith("accuracy_")}
    return ", ".join(f"{name} {value:.1%}" for name, value in bands.items() if value is not None)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
