"""A classification task: a linear classifier on the frozen states of a model predicts labels of texts or of words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from mlm_dist.evaluation import label_splits
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.label_counts import LabelCounts
from mlm_dist.evaluation.label_splits import SHOTS
from mlm_dist.evaluation.linear_classifier import LinearClassifier
from mlm_dist.evaluation.task_result import TaskResult, compared

Splits = Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]  # of each seed, (fitted on, tested on)


class ClassificationTask:
    """Labelled texts, and how well a linear classifier predicts their labels.

    Args:
        texts: The texts.
        labels: The label of each.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self._texts, self._names = texts, sorted(set(labels))
        self._labels = np.searchsorted(self._names, labels)
        examples = np.arange(len(texts))
        self._splits: dict[str, Splits] = {
            "classification": [*label_splits.cross_validation(examples, self._labels)],
        }
        if np.bincount(self._labels).min() > SHOTS:
            self._splits["few_shot"] = [*label_splits.few_shot(self._labels)]
        self._counts: dict[str, dict[str, LabelCounts]] = {name: {} for name in self._splits}
        majority = np.full(len(texts), np.bincount(self._labels).argmax())
        self._count("classification", "majority", majority[None])

    def measure(self, model: str, encoder: TextEncoder) -> None:
        """Measure a model; start or trained is its name."""
        states = encoder.encode(self._texts)
        for name, splits in self._splits.items():
            self._count(name, model, predictions(states, self._labels, len(self._names), splits))

    def results(self) -> list[TaskResult]:
        """The figures of all models that were measured, by cross-validation and with few examples."""
        about = {"texts": len(self._texts), "labels": len(self._names)}
        return [result(name, about, counts) for name, counts in self._counts.items()]

    def _count(self, name: str, model: str, predicted: np.ndarray) -> None:
        groups = np.arange(len(self._texts))
        self._counts[name][model] = LabelCounts.of(self._labels, predicted, groups, len(self._names))


class TokenClassificationTask:
    """Lines with a label for each word, and how well a linear classifier predicts them.

    Args:
        lines: The words of each line.
        labels: Their labels.
    """

    def __init__(self, lines: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> None:
        self._lines, self._names = lines, sorted(set(chain.from_iterable(labels)))
        self._labels = [np.searchsorted(self._names, [*some]) for some in labels]
        self._counts: dict[str, LabelCounts] = {}
        self._num_words = 0

    def measure(self, model: str, encoder: TextEncoder) -> None:
        """Measure a model; start or trained is its name."""
        found = encoder.word_states(self._lines)
        states = np.concatenate([one for indices, one in found if indices])
        labels = np.concatenate([self._labels[i][indices] for i, (indices, _) in enumerate(found) if indices])
        groups = np.repeat(np.arange(len(found)), [len(indices) for indices, _ in found])
        splits = [*label_splits.cross_validation(groups, np.zeros(len(found), np.int64))]
        predicted = predictions(states, labels, len(self._names), splits)
        if not self._counts:
            self._num_words = len(labels)
            majority = np.full((1, len(labels)), np.bincount(labels).argmax())
            self._counts["majority"] = LabelCounts.of(labels, majority, groups, len(self._names))
        self._counts[model] = LabelCounts.of(labels, predicted, groups, len(self._names))

    def results(self) -> list[TaskResult]:
        """The figures of all models that were measured."""
        about = {
            "lines": len(self._lines),
            "words": self._num_words,
            "words_not_read": sum(map(len, self._labels)) - self._num_words,
            "labels": len(self._names),
        }
        return [result("token_classification", about, self._counts)]


def predictions(states: np.ndarray, labels: np.ndarray, num_labels: int, splits: Splits) -> np.ndarray:
    """[seeds, examples] the label that a classifier predicts for each example it was not fitted on; -1 if none does."""
    found = np.full((len(splits), len(labels)), -1)
    for row, parts in zip(found, splits, strict=True):
        for fitted, tested in parts:
            classifier = LinearClassifier.fit(states[fitted], labels[fitted], num_labels)
            row[tested] = classifier.predict(states[tested])
    return found


def result(name: str, about: dict[str, int], counts: dict[str, LabelCounts]) -> TaskResult:
    """The result of a task from the counts of each model."""
    models = {model: one.figures() for model, one in counts.items()}
    differences = {model: counts["trained"].minus(counts[model]) for model in compared(counts)}
    return TaskResult(name, about, models, differences)
