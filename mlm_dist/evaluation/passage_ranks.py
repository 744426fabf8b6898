"""How well scores rank the passages that answer a query, of which there may be several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEPTH = 10  # of nDCG and of the larger recall
METRICS = ("ndcg_at_10", "recall_at_1", "recall_at_10", "mrr")


def ranking_metrics(scores: np.ndarray, relevant: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """{metric: [queries] its value for each query}, of `METRICS`, fp64. Their means are what is usually reported.

    - nDCG at 10 (Järvelin & Kekäläinen, 2002) with a gain of 1 for each relevant passage and a discount of
      log2(rank + 1), divided by that of the best order.
    - Recall at 1 and at 10: the relevant passages among the first, divided by all relevant ones. With n relevant ones,
      recall at 1 is at most 1 / n.
    - The reciprocal of the rank of the first relevant passage; its mean over queries is the MRR.

    Args:
        scores: [queries, passages] scores, higher for passages that fit better. Of equal scores, relevant passages rank
            last, so that a constant is no good score.
        relevant: Of each query, the indices of the passages that answer it, at least one, each once.

    Raises:
        ValueError: A score is no finite number.
    """
    values = np.zeros((len(METRICS), len(relevant)))
    for i, (row, indices) in enumerate(zip(scores, relevant, strict=True)):
        ranks = _ranks(row, indices)
        first = ranks[ranks <= DEPTH]
        best = _discounts(np.arange(1, min(len(ranks), DEPTH) + 1)).sum()
        values[:, i] = (
            _discounts(first).sum() / best,
            (ranks <= 1).sum() / len(ranks),
            len(first) / len(ranks),
            1 / ranks[0],
        )
    return dict(zip(METRICS, values, strict=True))


def _ranks(scores: np.ndarray, relevant: Sequence[int]) -> np.ndarray:
    """The ranks of the relevant passages of a query, from 1, in order."""
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers")
    others = np.sort(np.delete(scores, relevant))
    mine = np.sort(scores[list(relevant)])[::-1]
    # The other passages with at least the same score rank before.
    before: np.ndarray = len(others) - np.searchsorted(others, mine, side="left")
    return before + np.arange(1, len(mine) + 1)


def _discounts(ranks: np.ndarray) -> np.ndarray:
    discounts: np.ndarray = 1 / np.log2(ranks + 1)
    return discounts
