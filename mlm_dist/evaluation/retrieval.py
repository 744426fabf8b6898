"""How well the right one is found among others, by any measure of likeness, and the plainest such measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def figures(similarity: np.ndarray) -> dict[str, float]:
    """Recall among the first one and ten, and mean reciprocal rank, where the right target has the query's number.

    Args:
        similarity: [queries, targets], as many of both. Of targets that are equally like, the right one comes last.
    """
    right = np.diag(similarity)[:, None]
    ranks = (similarity >= right).sum(1)  # from 1, for the right one is as like as itself
    return {
        "recall_at_1": float((ranks <= 1).mean()),
        "recall_at_10": float((ranks <= 10).mean()),
        "mrr": float((1.0 / ranks).mean()),
    }


def cosine(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[queries, targets] cosines of vectors, 0 where one has no length."""
    found: np.ndarray = _unit(queries) @ _unit(targets).T
    return found


def token_overlap(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    """[queries, targets] likeness by the tokens that both have: cosine of tf-idf (Salton & Buckley, 1988).

    A token weighs as often as it stands in a text, times ln((1 + n) / (1 + df)) + 1, for df of the n targets hold it.

    Args:
        queries: Ids of the tokens of each.
        targets: The same.
    """
    vocabulary = np.unique(np.concatenate([*queries, *targets]))

    def counted(texts: Sequence[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(texts), len(vocabulary)))
        for row, ids in zip(found, texts, strict=True):
            np.add.at(row, np.searchsorted(vocabulary, ids), 1.0)
        return found

    of_targets = counted(targets)
    weight = np.log((1 + len(targets)) / (1 + (of_targets > 0).sum(0))) + 1
    return cosine(counted(queries) * weight, of_targets * weight)


def _unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
