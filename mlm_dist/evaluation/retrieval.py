"""Retrieval: similarities of queries and targets, and how well they rank the right target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def retrieval_metrics(similarity: np.ndarray) -> dict[str, float]:
    """Recall at 1 and at 10, and the mean reciprocal rank.

    Args:
        similarity: [n, n] of n queries and n targets; target i is the right one for query i. Of equally similar
            targets, the right one ranks last.
    """
    right = np.diag(similarity)[:, None]
    ranks = (similarity >= right).sum(1)  # from 1, because the right target counts itself
    return {
        "recall_at_1": float((ranks <= 1).mean()),
        "recall_at_10": float((ranks <= 10).mean()),
        "mrr": float((1.0 / ranks).mean()),
    }


def cosine(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[queries, targets] cosine similarities of vectors; 0 for a zero vector."""
    similarity: np.ndarray = _unit(queries) @ _unit(targets).T
    return similarity


def token_overlap(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    """[queries, targets] cosine similarities of tf-idf vectors (Salton & Buckley, 1988).

    The weight of a token is its count in the text, times ln((1 + n) / (1 + df)) + 1, where df of the n targets hold it.

    Args:
        queries: Token ids of each query.
        targets: Token ids of each target.
    """
    vocabulary = np.unique(np.concatenate([*queries, *targets]))

    def counts(texts: Sequence[np.ndarray]) -> np.ndarray:
        counted = np.zeros((len(texts), len(vocabulary)))
        for row, ids in zip(counted, texts, strict=True):
            np.add.at(row, np.searchsorted(vocabulary, ids), 1.0)
        return counted

    target_counts = counts(targets)
    weights = np.log((1 + len(targets)) / (1 + (target_counts > 0).sum(0))) + 1
    return cosine(counts(queries) * weights, target_counts * weights)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
