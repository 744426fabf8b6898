"""A run's metrics.jsonl, read as one run however often it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.training.metrics import read


@dataclass(frozen=True)
class Record:
    """What metrics.jsonl says; where two lines are about the same step, the later one holds.

    Args:
        start: The newest `start` line; empty where there is none.
        resumed: Steps at which the run was taken up again.
        train: {step: `train` line}, in the order of the steps.
        validation: {step: `validation` line}, in the order of the steps.
        end: The `end` line; None where the run has not ended since it was started last.
    """

    start: dict[str, Any]
    resumed: list[int]
    train: dict[int, dict[str, Any]]
    validation: dict[int, dict[str, Any]]
    end: dict[str, Any] | None

    @property
    def step(self) -> int:
        """The last step anything was written of."""
        return max([0, *self.train, *self.validation])

    @property
    def updates(self) -> int | None:
        """Updates the whole run was to have; of one that ends by the clock, the newest estimate."""
        newest = self.train[max(self.train)] if self.train else {}
        found: int | None = newest.get("updates", self.start.get("updates"))
        return found

    @property
    def is_finished(self) -> bool:
        """Whether all updates are done, or no more were to be."""
        return self.end is not None and (self.end.get("step") == self.updates or self.end.get("stopped_early") is True)

    @property
    def exported_step(self) -> int:
        """The update that a finished run's model is of."""
        best: int | None = None if self.end is None else self.end.get("best_step")
        return self.step if best is None else best

    @property
    def exported(self) -> dict[str, Any]:
        """The `validation` line of that model; the last one where it was not validated."""
        return self.validation.get(self.exported_step) or self.validation[max(self.validation)]


def read_record(run: Path) -> Record:
    """Read a run directory's metrics.jsonl; where there is none, all of the record is empty."""
    start: dict[str, Any] = {}
    resumed: list[int] = []
    lines: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "validation": {}}
    end: dict[str, Any] | None = None
    for line in read(run / "metrics.jsonl"):
        match line:
            case {"kind": "start"}:
                start, end = line, None
                resumed += [step] if (step := line.get("resumed_from")) else []
            case {"kind": "train" | "validation" as kind, "step": int(step)}:
                lines[kind][step] = line
            case {"kind": "end"}:
                end = line
    train, validation = (dict(sorted(found.items())) for found in lines.values())
    return Record(start, sorted(set(resumed)), train, validation, end)
