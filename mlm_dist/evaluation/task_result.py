"""The result of a task: the figures of each model, and how much the trained model differs from others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlm_dist.evaluation.bootstrap import Interval

METRICS = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "mrr": "MRR",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
}
COMPARED = ("start", "bm25")  # with the trained model

Figures = Mapping[str, Interval]  # {metric: its mean with its interval}


@dataclass(frozen=True)
class TaskResult:
    """Models on one task.

    Args:
        name: Name of the task.
        about: What it is measured on, as numbers and short names.
        models: {model: its figures}; bm25, token_overlap, majority, start and trained, as far as there are some.
        trained_minus: {model: the figures of the trained model minus its figures}.
    """

    name: str
    about: Mapping[str, Any]
    models: Mapping[str, Figures]
    trained_minus: Mapping[str, Figures] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The task in tasks.json."""
        return {
            **self.about,
            "models": {
                model: {metric: one._asdict() for metric, one in figures.items()}
                for model, figures in self.models.items()
            },
            "trained_minus": {
                model: {metric: one._asdict() | {"excludes_zero": one.excludes_zero} for metric, one in figures.items()}
                for model, figures in self.trained_minus.items()
            },
        }

    def describe(self) -> list[str]:
        """A line per model, and one for the differences."""
        lines = []
        for model, figures in self.models.items():
            (first, interval), *others = figures.items()
            shown = [f"{METRICS[first]} {interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"]
            shown += [f"{METRICS[metric]} {one.mean:.3f}" for metric, one in others]
            lines.append(f"{self.name}, {model.replace('_', ' ')}: {', '.join(shown)}")
        if self.trained_minus:
            lines.append(f"{self.name}, trained: {self._differences()}")
        return lines

    def _differences(self) -> str:
        metric = next(iter(next(iter(self.trained_minus.values()))))
        parts = [
            f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f}) over {model}"
            for model, figures in self.trained_minus.items()
            for one in [figures[metric]]
        ]
        return f"{METRICS[metric]} {', '.join(parts)}"


def compared(models: Iterable[str]) -> list[str]:
    """The models that the trained one is compared with; none if it is not among them."""
    names = [*models]
    return [name for name in COMPARED if name in names] if "trained" in names else []
