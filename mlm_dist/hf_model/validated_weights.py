"""The weights that a model card is about: what they are, and their validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlm_dist.pages.formats import plural
from mlm_dist.pages.record import Record
from mlm_dist.training.result import describe_average


@dataclass(frozen=True)
class ValidatedWeights:
    """The weights of a step of a run, or an average of weights up to that step.

    Args:
        record: Record of the run.
        step: The step.
        average: What they are the average of: ema, a number of checkpoints, or None for the weights of the step.
    """

    record: Record
    step: int
    average: int | Literal["ema"] | None = None

    @property
    def validation(self) -> dict[str, Any] | None:
        """The line of metrics.jsonl with their validation; None if there was none."""
        if self.average is None:
            return self.record.validation.get(self.step)
        line = self.record.averages.get("ema" if self.average == "ema" else "checkpoint_average")
        is_theirs = line is not None and line["step"] == self.step and line.get("checkpoints", "ema") == self.average
        return line if is_theirs else None

    @property
    def description(self) -> str:
        """What they are."""
        if self.average is None:
            return f"step {self.step:,}"
        if (line := self.validation) is not None:
            return f"step {self.step:,}, {describe_average(line)}"
        if self.average == "ema":
            return f"step {self.step:,}, exponential moving average of the weights"
        return f"step {self.step:,}, mean of the last {plural(self.average, 'checkpoint')}"

    def table(self) -> str:
        """Loss, perplexity and accuracy before training and of these weights, as Markdown."""
        on_others = bool(self.record.other_rows(self.step))
        before, after = None if on_others else self.record.comparable.get(0), self.validation
        if after is None:
            return "There was no validation of these weights."
        rows = ["| | loss, nats per masked token | perplexity | accuracy |", "|---|---|---|---|"]
        unigram_loss = None if on_others else self.record.unigram_loss
        if unigram_loss is not None:
            rows.append(f"| unigram baseline | {unigram_loss:.4f} | | |")
        newest = None if self.average is None else self.record.comparable.get(self.step)
        named = (("before training", before), (f"step {self.step:,}", newest), (self.description, after))
        for title, line in named:
            if line is not None:
                loss, perplexity = _number(line["loss"]), _number(line["perplexity"])
                rows.append(f"| {title} | {loss} | {perplexity} | {line['accuracy']:.1%} |")
        text = f"Measured on {plural(after['masked_tokens'], 'masked token')} of held-out documents."
        return (
            "\n".join(rows) + f"\n\n{text}{self._table_of_sources(before or {}, after)}{self._of_pairs(before, after)}"
        )

    def _of_pairs(self, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
        """Recall and reciprocal rank on pairs of texts, as Markdown; empty without pairs."""
        rows = [
            f"| {cell(title)} | {line['pairs_recall_at_1']:.1%} | {line['pairs_mrr']:.3f} |"
            for title, line in (("before training", before), (self.description, after))
            if line is not None and "pairs_mrr" in line
        ]
        if not rows:
            return ""
        head = ["\n\n| search | recall at 1 | mean reciprocal rank |", "|---|---|---|"]
        text = f"Each of {after['pairs']:,} held-out queries, with its passage among those of all others."
        return "\n".join([*head, *rows]) + f"\n\n{text}"

    def _table_of_sources(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
        """The losses of each source, as Markdown; empty with one source."""
        rows = [
            f"| {cell(title)} | {_number(before[key]) if key in before else ''} | {_number(after[key])} |"
            for name, title in self.record.sources.items()
            if (key := f"source_{name}_loss") in after
        ]
        head = ["\n\n| validation loss | before training | after |", "|---|---|---|"]
        return "\n".join([*head, *rows]) if rows else ""


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1e6 else f"{value:.3g}"
