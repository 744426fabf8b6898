"""Validation tables: over the run, by token frequency and of single sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.pages.formats import number, percent
from mlm_dist.pages.record import Record
from mlm_dist.pages.tables import Table
from mlm_dist.training.result import describe_average

MAX_ROWS = 16  # of the table over the run; the first and the last validation are always shown
BANDS = {
    "frequent": "frequent tokens: the first quarter of the text",
    "common": "common tokens: the second quarter",
    "uncommon": "uncommon tokens: the third quarter",
    "rare": "rare tokens: the last quarter, and tokens that training never saw",
    "domain": "domain tokens: words added to the tokenizer",
}


def over_the_run(record: Record) -> Table | None:
    """Loss, perplexity and accuracy by step; None if there was no validation."""
    lines = list(record.validation.values())
    if not lines:
        return None
    shown = _shown(lines)
    rows = [
        [
            f"{line['step']:,}{record.other_rows(line['step'])}",
            *(number(line["loss"]), number(line["perplexity"]), percent(line["accuracy"])),
        ]
        for line in [*shown, *record.averages.values()]
    ]
    for row, average in zip(rows[len(shown) :], record.averages.values(), strict=True):
        row[0] = describe_average(average)
    heads = ["step", "loss", "perplexity", "accuracy"]
    caption = f"{lines[-1]['masked_tokens']:,} masked tokens of held-out documents"
    if len(shown) < len(lines):
        caption += f"; {len(shown)} of {len(lines)} validations"
    return Table(caption, heads, rows, numbers=True)


def of_pairs(record: Record) -> Table | None:
    """Loss, recall and reciprocal rank on pairs of texts by step; None without pairs."""
    lines = [line for line in record.comparable.values() if "pairs_loss" in line]
    if not lines:
        return None
    rows = [
        [
            f"{line['step']:,}",
            *(number(line["pairs_loss"]), percent(line["pairs_recall_at_1"]), number(line["pairs_mrr"])),
        ]
        for line in _shown(lines)
    ]
    heads = ["step", "loss on pairs", "recall at 1", "mean reciprocal rank"]
    caption = f"{lines[-1]['pairs']:,} held-out queries, each with its passage among those of all others"
    return Table(caption, heads, rows, numbers=True)


def _shown(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `MAX_ROWS` lines, evenly spaced, with the first and the last."""
    stride = max(1, math.ceil((len(lines) - 1) / (MAX_ROWS - 1)))
    return [*lines[:-1][::stride], lines[-1]]


def by_source(record: Record) -> Table | None:
    """Loss and accuracy of each source at the first and the last validation; None with one source."""
    lines, sources = list(record.comparable.values()), record.sources
    if not sources:
        return None
    ends = [lines[0], *lines[1:][-1:]]
    rows = [
        [
            title,
            *(number(line[key]) if (key := f"source_{name}_loss") in line else "—" for line in ends),
            *(percent(line[key]) if (key := f"source_{name}_accuracy") in line else "—" for line in ends),
            f"{lines[-1].get(f'source_{name}_masked_tokens', 0):,}",
        ]
        for name, title in sources.items()
    ]
    steps = [f"step {line['step']:,}" for line in ends]
    heads = ["", *(f"loss, {step}" for step in steps), *(f"accuracy, {step}" for step in steps), "masked tokens"]
    return Table("Validation by source", heads, rows, numbers=True)


def by_band(record: Record) -> Table | None:
    """Accuracy by frequency band at the first and the last validation; None if there are no bands."""
    lines = list(record.comparable.values())
    names = [name for name in BANDS if lines and lines[-1].get(f"accuracy_{name}") is not None]
    if not names:
        return None
    ends = [lines[0], *lines[1:][-1:]]
    rows = [
        [
            BANDS[name],
            *(percent(line.get(f"accuracy_{name}")) for line in ends),
            f"{lines[-1][f'masked_tokens_{name}']:,}",
        ]
        for name in names
    ]
    heads = ["", *(f"step {line['step']:,}" for line in ends), "masked tokens"]
    return Table("Validation accuracy by token frequency in the training rows", heads, rows, numbers=True)


def of_sentences(validation: Mapping[str, Any] | None) -> Table | None:
    """Pseudo-log-likelihood of sentences, from the validate job; None if it was not computed."""
    if validation is None or validation.get("pseudo_log_likelihood") is None:
        return None
    rows = [
        ["model", evaluated_model(validation)],
        ["pseudo-log-likelihood, nats per token", number(validation["pseudo_log_likelihood"])],
        ["pseudo-perplexity", number(validation["pseudo_perplexity"])],
        ["sentences", f"{validation['sentences']:,}"],
        ["tokens", f"{validation['sentence_tokens']:,}"],
    ]
    return Table("Held-out sentences, each token masked in turn", ["", ""], rows, numbers=False)


def evaluated_model(result: Mapping[str, Any]) -> str:
    """The model that a job evaluated."""
    return str(result["model"]) + (f", step {result['step']:,}" if result.get("step") is not None else "")
