"""Runs to compare: what each recorded, which settings differ, and whether validation losses can be compared."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlm_dist.errors import ConfigError, reason
from mlm_dist.pages.formats import finite
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.resolved import read_yaml
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.pages.verdict import validation_losses
from mlm_dist.run_dir import RunDir
from mlm_dist.spec.settings import settings

# Facts of the start line that belong to the settings of a run.
_FACTS = ("version", "parameters", "world_size", "device", "sharding", "precision")
# Keys whose values differ between any two runs, or say nothing about them.
_NOT_COMPARED = ("output_dir", "corpus.cache_dir", "checkpoint.resume", "tracking.tags", "tracking.group")
# Objectives whose validation is that of another one.
_VALIDATED_AS = {"causal_lm": "masked_lm"}


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare.

    Args:
        name: Its name, which no other run has.
        record: Its metrics.jsonl.
        settings: {key: value}, as decided.
        start: Its report.json; None without one.
    """

    name: str
    record: Record
    settings: dict[str, Any]
    start: StartingPoint | None

    @classmethod
    def read(cls, path: Path, name: str) -> ComparedRun:
        """Read the records of a run directory.

        Raises:
            ConfigError: One of them is damaged.
        """
        run_dir = RunDir(path)
        try:
            written, resolved = read_yaml(run_dir.config) or {}, read_yaml(run_dir.resolved) or {}
            start = StartingPoint.load(run_dir.start_of_report) if run_dir.start_of_report.exists() else None
        except (OSError, ValueError, RecursionError, AttributeError) as error:
            raise ConfigError(
                f"{path}: config.yaml, resolved.yaml or report.json is damaged ({reason(error)})"
            ) from None
        record = read_record(path)
        facts = {name: record.start[name] for name in _FACTS if name in record.start}
        return cls(name, record, settings(written, resolved) | facts, start)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, validation loss) of all validations with a finite loss."""
        return validation_losses(self.record)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the best validation; None without one."""
        return min(self.losses, key=lambda pair: pair[1], default=None)

    @cached_property
    def progress(self) -> list[tuple[int, int, float]]:
        """(step, tokens, seconds) of the train lines: totals, without validations and checkpoints."""
        lines = [(0, 0, 0.0)]
        for step, line in self.record.train.items():
            tokens, speed = int(line.get("tokens") or 0), finite(line.get("tokens_per_second"))
            seconds = lines[-1][2] + (max(tokens - lines[-1][1], 0) / speed if speed else 0.0)
            lines.append((step, tokens, seconds))
        return lines

    def at(self, step: int, unit: int) -> float:
        """Steps (0), tokens (1) or seconds (2) after a step, between the train lines in proportion."""
        if unit == 0:
            return step
        for before, after in pairwise(self.progress):
            if step <= after[0]:
                share = (step - before[0]) / max(after[0] - before[0], 1)
                return before[unit] + share * (after[unit] - before[unit])
        return self.progress[-1][unit]

    @property
    def tokens_per_second(self) -> float | None:
        """The mean speed; None without a train line."""
        _, tokens, seconds = self.progress[-1]
        return tokens / seconds if seconds else None

    @property
    def chars_per_token(self) -> float | None:
        """Characters per token of the validation documents; None if they were not counted."""
        return None if self.start is None else self.start.chars_per_token


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """{key: value of each run} of all settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in _NOT_COMPARED)
    values = {key: [_text(run.settings.get(key, "—")) for run in runs] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if len({*of_runs}) > 1}


def obstacles(run: ComparedRun, other: ComparedRun) -> list[str]:
    """Why the validation losses of two runs cannot be compared; empty if they can."""
    found = []
    if run.record.start.get("corpus") != other.record.start.get("corpus") or not run.record.start.get("corpus"):
        found += _parts_that_differ(run, other)
    if _rows(run) != _rows(other):
        found.append("rows of the validation set")
    if run.record.start.get("validation_only") != other.record.start.get("validation_only"):
        found.append("sources in the validation loss")
    if _validated_objective(run) != _validated_objective(other):
        found.append("objective")
    return found


def _parts_that_differ(run: ComparedRun, other: ComparedRun) -> list[str]:
    if run.start is None or other.start is None:
        return ["corpus"]
    one, two = run.start.corpus, other.start.corpus
    found = [] if _documents(one) == _documents(two) else ["validation set"]
    trains = bool(one["config"]["tokenizer"].get("train_vocab_size"))
    if one["config"]["tokenizer"] != two["config"]["tokenizer"] or (found and trains):
        found.append("tokenizer")
    if one["config"]["rows"] != two["config"]["rows"]:
        found.append("length or mode of rows")
    return found


def _validated_objective(run: ComparedRun) -> Any:
    """The objective that the validation losses of a run belong to."""
    name = str(run.settings.get("objective"))
    return _VALIDATED_AS.get(name, name)


def _documents(corpus: Mapping[str, Any]) -> Any:
    """What the validation documents depend on."""
    return [source.get("sha256") for source in corpus["sources"]], corpus["config"]["corpus"]


def _rows(run: ComparedRun) -> Any:
    """Which rows of the validation set are used: a part of them depends on its size."""
    rows, total = run.record.start.get("validation_rows"), run.record.start.get("validation_rows_total")
    return None if rows == total else (rows, total)


def _text(value: Any) -> str:
    """A setting; the order of the fields of a dict does not matter."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError):
            return json.dumps(json.loads(value), sort_keys=True)
    return f"{value:g}" if isinstance(value, float) else str(value)
