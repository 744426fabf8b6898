"""BM25, the usual baseline of retrieval: it compares words and knows nothing of their meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mlm_dist.corpus.trivial_queries import UNSPACED

K1, B = 1.2, 0.75  # of Lucene
# A word, or a character of a script without spaces.
_WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without spaces, the characters."""
    return _WORD.findall(text.casefold())


class BM25:
    """BM25 scores of passages as Lucene computes them; 0 without a word in common.

    The package bm25s computes them (Lù, 2024, https://arxiv.org/abs/2407.03618).

    Args:
        passages: The passages, at least one of which has a word.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        import bm25s

        self._index, self._count = bm25s.BM25(k1=K1, b=B, method="lucene"), len(passages)
        self._index.index([words(passage) for passage in passages], show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """[passages] fp32 scores of a query."""
        found = words(query)
        scores: np.ndarray = self._index.get_scores(found) if found else np.zeros(self._count, np.float32)
        return scores


def bm25_scores(queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
    """[queries, passages] BM25 scores, fp32; see `BM25`."""
    index = BM25(passages)
    return np.array([index.scores(query) for query in queries], np.float32).reshape(-1, len(passages))
