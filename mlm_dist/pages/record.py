"""The record of a run: its metrics.jsonl, read as one run even if it was interrupted and resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_dist.objectives.figures import sources_of
from mlm_dist.pages.formats import finite
from mlm_dist.training.metrics import read
from mlm_dist.training.validated_rows import rows_of, validated_rows


@dataclass(frozen=True)
class Record:
    """The lines of metrics.jsonl; of two lines for the same step, the later one counts.

    Args:
        start: The newest `start` line; empty if there is none.
        resumed: Steps at which the run was resumed.
        train: {step: `train` line}, in the order of the steps.
        validation: {step: `validation` line}, in the order of the steps.
        end: The `end` line; None if the run has not ended since it was last started.
        averages: {name: `average` line} of averaged weights.
        rows: {step: validation rows}, see `validated_rows`; steps that are not in it are on those of the others.
    """

    start: dict[str, Any]
    resumed: list[int]
    train: dict[int, dict[str, Any]]
    validation: dict[int, dict[str, Any]]
    end: dict[str, Any] | None
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The last recorded step."""
        return max([0, *self.train, *self.validation])

    @property
    def steps(self) -> int | None:
        """Steps of the whole run; while a phase of some hours trains, the newest estimate. None if unknown."""
        newest = self.train[max(self.train)] if self.train else {}
        lines = (self.end or {}, newest, self.start)
        steps: int | None = next((line["steps"] for line in lines if "steps" in line), None)
        return steps

    @property
    def is_finished(self) -> bool:
        """Whether the run reached its last step, or stopped early."""
        return self.end is not None and (self.end.get("step") == self.steps or self.end.get("stopped_early") is True)

    @property
    def phases(self) -> dict[str, int]:
        """{phase: steps of the run before it} of the phases that have begun, if there are several."""
        begun: dict[str, int] = {}
        before = 0  # the last step of a phase has a line
        for step, line in self.train.items():
            if (name := line.get("phase")) is not None:
                begun.setdefault(str(name), before)
            before = step
        return begun

    @property
    def sources(self) -> dict[str, str]:
        """{source: what it is called for people} of the sources with validation figures of their own."""
        names = dict.fromkeys(name for line in self.validation.values() for name in sources_of(line))
        apart = self.start.get("validation_only") or ()
        return {name: f"{name} (not trained on)" if name in apart else name for name in names}

    @property
    def _last_rows(self) -> tuple[Any, ...] | None:
        """The rows of the last validation; None if they are unknown."""
        return self.rows.get(next(reversed(self.validation), 0))

    def is_comparable(self, step: int) -> bool:
        """Whether a validation is on the rows of the last one. Losses on other rows cannot be compared with it."""
        return self.rows.get(step) == self._last_rows

    @property
    def comparable(self) -> dict[int, dict[str, Any]]:
        """The `validation` lines that can be compared with the last one."""
        return {step: line for step, line in self.validation.items() if self.is_comparable(step)}

    def other_rows(self, step: int) -> str:
        """What a table adds to a validation that is not comparable with the last one; else empty."""
        return " (other rows)" if step in self.validation and not self.is_comparable(step) else ""

    @property
    def unigram_loss(self) -> float | None:
        """The unigram baseline; None if it is unknown, or on other rows than the last validation."""
        is_on_them = self._last_rows in (None, rows_of(self.start))
        return finite(self.start.get("unigram_loss")) if is_on_them else None

    @property
    def exported_step(self) -> int:
        """The step of a finished run's exported model."""
        best: int | None = None if self.end is None else self.end.get("best_step")
        return self.step if best is None else best

    @property
    def exported_average(self) -> dict[str, Any] | None:
        """The `average` line of a finished run's exported model; None if no average was exported or validated."""
        return None if self.end is None else self.averages.get(self.end.get("exported_average", ""))

    @property
    def exported(self) -> dict[str, Any]:
        """The line of the exported model's validation, or the last `validation` line if there is none for its step."""
        if (average := self.exported_average) is not None:
            return average
        return self.validation.get(self.exported_step) or self.validation[max(self.validation)]


def read_record(run: Path) -> Record:
    """Read metrics.jsonl of a run directory; if there is none, the record is empty."""
    start: dict[str, Any] = {}
    resumed: list[int] = []
    lines: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "validation": {}}
    end: dict[str, Any] | None = None
    averages: dict[str, dict[str, Any]] = {}
    written = read(run / "metrics.jsonl")
    for line in written:
        match line:
            case {"kind": "start"}:
                start, end, averages = line, None, {}
                resumed += [step] if (step := line.get("resumed_from")) else []
            case {"kind": "train" | "validation" as kind, "step": int(step)}:
                lines[kind][step] = line
            case {"kind": "average", "average": str(name)}:
                averages[name] = line
            case {"kind": "end"}:
                end = line
    train, validation = (dict(sorted(by_step.items())) for by_step in lines.values())
    return Record(start, sorted(set(resumed)), train, validation, end, averages, validated_rows(written))
