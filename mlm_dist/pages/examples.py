"""Cloze examples on the page: what the starting and the trained model predict for held-out sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlm_dist.evaluation.cloze import ClozeExample
from mlm_dist.evaluation.fill_mask import TOP_K, Prediction
from mlm_dist.pages.formats import percent


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


class Word(NamedTuple):
    """A predicted word.

    Args:
        text: The word.
        percent: Its probability.
        share: The same, as the width of its bar.
        is_right: Whether it is the right one.
    """

    text: str
    percent: str
    share: str
    is_right: bool


@dataclass(frozen=True)
class Card:
    """An example and the predictions for it.

    Args:
        before, word, after: The sentence, around the word to predict.
        document: The document that holds it.
        columns: The models.
        rows: The predicted words of each model, the most likely first; None where a model has no more.
        probability: Probability of the right word, by model.
    """

    before: str
    word: str
    after: str
    document: str
    columns: list[str]
    rows: list[list[Word | None]]
    probability: str


def example_cards(comparison: Comparison | None) -> list[Card]:
    """One card per example; none if there is nothing to compare."""
    if comparison is None:
        return []
    columns = [("Before training", comparison.before)]
    if comparison.after is not None:
        columns.append((f"Step {comparison.step:,}", comparison.after))
    cards = []
    for i, example in enumerate(comparison.examples):
        predictions = [of_model[i] for _, of_model in columns]
        rows = [[_word(prediction, rank) for prediction in predictions] for rank in range(TOP_K)]
        sentence = example.sentence
        cards.append(
            Card(
                before=sentence[: example.start],
                word=example.word,
                after=sentence[example.end :],
                document=example.document,
                columns=[title for title, _ in columns],
                rows=rows,
                probability=" → ".join(f"{100 * prediction.probability:.2g}%" for prediction in predictions),
            )
        )
    return cards


def summary_of_examples(comparison: Comparison | None) -> str:
    """How many examples have the right word among the top ones, and how they were chosen; empty without examples."""
    if comparison is None or not comparison.examples:
        return ""
    count = len(comparison.examples)
    result = f"The right word is among the top {TOP_K} in {num_in_top(comparison.before)} of {count} examples "
    if comparison.after is None:
        result += "before training; there is no trained model yet."
    else:
        result += f"before training and in {num_in_top(comparison.after)} at step {comparison.step:,}."
    return (
        f"{result} The sentences are from held-out documents. Their words are chosen by frequency in these documents, "
        "rarity in general, concentration in few documents, and by how well their neighbours predict them in the "
        "training documents; neither model takes part in the choice."
    )


def _word(prediction: Prediction, i: int) -> Word | None:
    """The i-th most likely word, with a bar as wide as its probability."""
    if i >= len(prediction.top):
        return None
    text, probability = prediction.top[i]
    share = f"{min(max(probability, 0.0), 1.0):.1%}"
    return Word(text or "(space)", percent(probability), share, prediction.rank == i + 1)
