"""The vectors nearest to a query: all of them compared, or an approximate graph for very many."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.errors import ConfigError

EXACT_LIMIT = 1_000_000  # vectors; of more, an approximate graph is made
BLOCK = 1 << 16  # vectors that are compared at a time
CANDIDATES = 4  # times as many vectors as asked for are taken from the graph, and compared exactly


class Nearest(NamedTuple):
    """The best vectors, the best first; of equal ones, the first in the index.

    Args:
        indices: [top] int64.
        scores: [top] fp32 products with the query.
    """

    indices: np.ndarray
    scores: np.ndarray


def exact(vectors: np.ndarray, query: np.ndarray, top: int) -> Nearest:
    """The `top` best of all vectors, or all if there are fewer.

    Args:
        vectors: [vectors, width] fp32, which may be memory-mapped.
        query: [width] fp32.
        top: How many.
    """
    indices, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for first in range(0, len(vectors), BLOCK):
        here = vectors[first : first + BLOCK] @ query
        found = best(here, top)
        indices = np.concatenate([indices, found + first])
        scores = np.concatenate([scores, here[found]])
        kept = best(scores, top)
        indices, scores = indices[kept], scores[kept]
    return Nearest(indices, scores)


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """The indices of the `top` highest scores in order; of equal ones, the first."""
    if top < len(scores):
        threshold = -np.partition(-scores, top - 1)[top - 1]
        higher, equal = np.flatnonzero(scores > threshold), np.flatnonzero(scores == threshold)
        chosen = np.concatenate([higher, equal[: top - len(higher)]])
        chosen.sort()
    else:
        chosen = np.arange(len(scores))
    order: np.ndarray = chosen[np.argsort(-scores[chosen], kind="stable")]
    return order


def require_package(count: int) -> None:
    """Check that the package for a graph of so many vectors is installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("usearch") is None:
        raise ConfigError(
            f"search: {count:,} passages, and over {EXACT_LIMIT:,} need the package usearch; install it with pip "
            "install 'mlm_dist[search]'"
        )


def build_graph(vectors: np.ndarray, path: Path, advance: Callable[[int], None]) -> None:
    """Write an HNSW graph (Malkov & Yashunin, 2016) of vectors as a file.

    Args:
        vectors: [vectors, width] fp32.
        path: The file.
        advance: Called with the number of vectors that were added.
    """
    from usearch.index import Index

    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    for first in range(0, len(vectors), BLOCK):
        part = np.ascontiguousarray(vectors[first : first + BLOCK])
        graph.add(np.arange(first, first + len(part)), part)
        advance(len(part))
    graph.save(str(path))


def open_graph(path: Path) -> Any:
    """A graph that `build_graph` wrote, memory-mapped."""
    from usearch.index import Index

    return Index.restore(str(path), view=True)


def approximate(graph: Any, vectors: np.ndarray, query: np.ndarray, top: int) -> Nearest:
    """As `exact`, from a graph, which may miss some of the best; the scores are exact."""
    found = graph.search(query, min(CANDIDATES * top, len(vectors)))
    candidates = np.sort(np.asarray(found.keys, np.int64))
    scores = vectors[candidates] @ query
    kept = best(scores, top)
    return Nearest(candidates[kept], scores[kept])
