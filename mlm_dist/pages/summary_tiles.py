"""The tiles at the top of the page: the few numbers that say how the run went."""

from __future__ import annotations

from typing import NamedTuple

from mlm_dist.pages.examples import Comparison, num_in_top
from mlm_dist.pages.formats import number, percent
from mlm_dist.pages.record import Record


class Tile(NamedTuple):
    """A tile.

    Args:
        title: What it shows.
        value: The number.
        note: A line below it.
    """

    title: str
    value: str
    note: str


def summary_tiles(record: Record, comparison: Comparison | None) -> list[Tile]:
    """Validation loss and accuracy, cloze examples and speed, as far as they are known."""
    return [*_validation(record), *_examples(comparison), *_speed(record)]


def _validation(record: Record) -> list[Tile]:
    lines = list(record.comparable.values())
    if not lines:
        return []
    first, last = lines[0], record.exported

    def change(before: str, after: str) -> str:
        return f"{before} → {after}" if len(lines) > 1 else before

    unigram_loss = record.unigram_loss
    baseline = "" if unigram_loss is None else f"unigram baseline {number(unigram_loss)}"
    accuracy = change(percent(first["accuracy"]), percent(last["accuracy"]))
    return [
        Tile("Validation loss", change(number(first["loss"]), number(last["loss"])), baseline),
        Tile("Validation accuracy", accuracy, f"of {last['masked_tokens']:,} masked tokens"),
    ]


def _examples(comparison: Comparison | None) -> list[Tile]:
    if comparison is None or not comparison.examples:
        return []
    value = str(num_in_top(comparison.before))
    if comparison.after is not None:
        value += f" → {num_in_top(comparison.after)}"
    value += f" of {len(comparison.examples)}"
    return [Tile("Right word among the top 5", value, "examples below")]


def _speed(record: Record) -> list[Tile]:
    if not record.train:
        return []
    speeds = sorted(line["tokens_per_second"] for line in record.train.values())
    return [Tile("Tokens per second", f"{speeds[len(speeds) // 2]:,.0f}", "median over the run")]
