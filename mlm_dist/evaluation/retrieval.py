"""The similarity of queries and passages by their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def token_overlap(queries: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    """[queries, targets] cosine similarities of tf-idf vectors (Salton & Buckley, 1988); 0 for a text without tokens.

    The weight of a token is its count in the text, times ln((1 + n) / (1 + df)) + 1, where df of the n targets hold it.

    Args:
        queries: Token ids of each query.
        targets: Token ids of each target.
    """
    from scipy import sparse
    from scipy.sparse.linalg import norm

    width = 1 + max((int(ids.max()) for ids in (*queries, *targets) if len(ids)), default=0)

    def counts(texts: Sequence[np.ndarray]) -> Any:
        """[texts, tokens] how often each token is in each text."""
        rows = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
        columns = np.concatenate([*texts, np.zeros(0, np.int64)])
        return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(texts), width))

    def unit(vectors: Any) -> Any:
        return sparse.diags_array(1 / np.maximum(norm(vectors, axis=1), 1e-12)) @ vectors

    target_counts = counts(targets)
    weights = np.log((1 + len(targets)) / (1 + np.bincount(target_counts.indices, minlength=width))) + 1
    weighted = sparse.diags_array(weights)
    similarity: np.ndarray = (unit(counts(queries) @ weighted) @ unit(target_counts @ weighted).T).toarray()
    return similarity
