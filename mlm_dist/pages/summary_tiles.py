"""The tiles at the top of the page: the few numbers that say how the run went."""

from __future__ import annotations

from html import escape

from mlm_dist.pages.examples import Comparison, num_in_top
from mlm_dist.pages.formats import number, percent
from mlm_dist.pages.record import Record


def summary_tiles(record: Record, comparison: Comparison | None) -> str:
    """Validation loss and accuracy, cloze examples and speed, as far as they are known; nothing if none is."""
    tiles = [*_validation(record), *_examples(comparison), *_speed(record)]
    items = (
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for title, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(items)}</dl>\n' if tiles else ""


def _validation(record: Record) -> list[tuple[str, str, str]]:
    lines = list(record.validation.values())
    if not lines:
        return []
    first, last = lines[0], record.exported

    def change(before: str, after: str) -> str:
        return f"{before} → {after}" if len(lines) > 1 else before

    unigram_loss = record.start.get("unigram_loss")
    baseline = "" if unigram_loss is None else f"unigram baseline {number(unigram_loss)}"
    accuracy = change(percent(first["accuracy"]), percent(last["accuracy"]))
    return [
        ("Validation loss", change(number(first["loss"]), number(last["loss"])), baseline),
        ("Validation accuracy", accuracy, f"of {last['masked_tokens']:,} masked tokens"),
    ]


def _examples(comparison: Comparison | None) -> list[tuple[str, str, str]]:
    if comparison is None or not comparison.examples:
        return []
    value = str(num_in_top(comparison.before))
    if comparison.after is not None:
        value += f" → {num_in_top(comparison.after)}"
    value += f" of {len(comparison.examples)}"
    return [("Right word among the top 5", value, "examples below")]


def _speed(record: Record) -> list[tuple[str, str, str]]:
    if not record.train:
        return []
    speeds = sorted(line["tokens_per_second"] for line in record.train.values())
    return [("Tokens per second", f"{speeds[len(speeds) // 2]:,.0f}", "median over the run")]
