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


def bm25_scores(queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
    """[queries, passages] BM25 scores as Lucene computes them, fp32; 0 without a word in common.

    The package bm25s computes them (Lù, 2024, https://arxiv.org/abs/2407.03618).

    Args:
        queries: The queries.
        passages: The passages, at least one of which has a word.
    """
    import bm25s

    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index([words(passage) for passage in passages], show_progress=False)
    scores = np.zeros((len(queries), len(passages)), np.float32)
    for row, query in zip(scores, map(words, queries), strict=True):
        if query:
            row[:] = index.get_scores(query)
    return scores
