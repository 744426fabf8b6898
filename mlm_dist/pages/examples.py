"""Cloze examples on the page: what the starting and the trained model predict for held-out sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mlm_dist.evaluation.cloze import ClozeExample
from mlm_dist.evaluation.fill_mask import TOP_K, Prediction
from mlm_dist.pages.formats import percent
from mlm_dist.pages.tables import paragraph


@dataclass(frozen=True)
class Comparison:
    """Predictions of the starting and the trained model for the same examples.

    Args:
        examples: The examples.
        before: The starting model's predictions.
        after: The trained model's predictions; None if there is no trained model yet.
        step: Step of the trained model.
    """

    examples: Sequence[ClozeExample]
    before: Sequence[Prediction]
    after: Sequence[Prediction] | None
    step: int


def num_in_top(predictions: Iterable[Prediction]) -> int:
    """The number of predictions that have the right word among the top ones."""
    return sum(prediction.rank is not None for prediction in predictions)


def example_cards(comparison: Comparison | None) -> str:
    """One card per example; nothing if there is nothing to compare."""
    if comparison is None or not comparison.examples:
        return ""
    count = len(comparison.examples)
    result = f"The right word is among the top {TOP_K} in {num_in_top(comparison.before)} of {count} examples "
    if comparison.after is None:
        result += "before training; there is no trained model yet."
    else:
        result += f"before training and in {num_in_top(comparison.after)} at step {comparison.step:,}."
    choice = (
        "The sentences are from held-out documents. Their words are chosen by frequency in these documents, rarity in "
        "general, concentration in few documents, and by how well their neighbours predict them in the training "
        "documents; neither model takes part in the choice."
    )
    after: Sequence[Prediction | None] = comparison.after if comparison.after is not None else [None] * count
    cards = (
        _card(example, first, second, comparison.step)
        for example, first, second in zip(comparison.examples, comparison.before, after, strict=True)
    )
    return f'{paragraph(f"{result} {choice}")}<div class="examples">{"".join(cards)}</div>'


def _card(example: ClozeExample, before: Prediction, after: Prediction | None, step: int) -> str:
    sentence, word = example.sentence, escape(example.word)
    marked = f"{escape(sentence[: example.start])}<mark>{word}</mark>{escape(sentence[example.end :])}"
    columns = [("Before training", before)] + ([(f"Step {step:,}", after)] if after is not None else [])
    heads = "".join(f"<th scope=col>{escape(title)}</th>" for title, _ in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_word(prediction, i)}</td>" for _, prediction in columns) + "</tr>"
        for i in range(TOP_K)
    )
    probabilities = " → ".join(f"{100 * prediction.probability:.2g}%" for _, prediction in columns)
    return (
        f'<article class="example"><p>{marked}</p><p class=soft>{escape(example.document)}</p>'
        f'<table class="words"><caption>The top {TOP_K} predictions for “{word}”</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="count soft">Probability of “{word}”: {escape(probabilities)}</p></article>'
    )


def _word(prediction: Prediction, i: int) -> str:
    """The i-th most likely word, with a bar as wide as its probability."""
    if i >= len(prediction.top):
        return ""
    text, probability = prediction.top[i]
    is_right = prediction.rank == i + 1
    width = f"{min(max(probability, 0.0), 1.0):.1%}"
    name = f"{'✓ ' if is_right else ''}{text or '(space)'}"
    return (
        f'<div class="word{" right" if is_right else ""}" style="--share:{width}"><span>{escape(name)}</span>'
        f"<span>{escape(percent(probability))}</span></div>"
    )
