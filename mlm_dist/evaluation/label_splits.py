"""Splits of labelled examples into those that a classifier is fitted on and those that it is tested on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NUM_SEEDS = 5
NUM_FOLDS = 5
SHOTS = 8  # examples of each label


def folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """[groups] the fold of each group; every label is spread evenly over the folds.

    Args:
        labels: [groups] the label of each.
        seed: Of the order of the groups.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    found = np.zeros(len(labels), np.int64)
    found[by_label] = np.arange(len(labels)) % NUM_FOLDS
    return found


def few_of_each(labels: np.ndarray, seed: int) -> np.ndarray:
    """[examples] whether an example is one of `SHOTS` that are drawn of each label."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        drawn[order[labels[order] == label][:SHOTS]] = True
    return drawn


def cross_validation(groups: np.ndarray, labels: np.ndarray) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """For each seed, (fitted on, tested on) of each fold; each example is tested on once.

    Args:
        groups: [examples] the group of each; a group is in one fold.
        labels: [groups] the label by which groups are spread.
    """
    for seed in range(NUM_SEEDS):
        fold = folds(labels, seed)[groups]
        yield [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(NUM_FOLDS)]


def few_shot(labels: np.ndarray) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """For each seed, (`SHOTS` examples of each label, all others)."""
    for seed in range(NUM_SEEDS):
        drawn = few_of_each(labels, seed)
        yield [(np.flatnonzero(drawn), np.flatnonzero(~drawn))]
