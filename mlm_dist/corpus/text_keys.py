"""Keys of texts, by which equal documents are found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlm_dist.corpus.normal_text import normal_text
from mlm_dist.corpus.partitions import partitions, starts_of
from mlm_dist.corpus.temporary_arrays import blocks, index_type

KEY_BYTES = 16


def text_key(text: str) -> bytes:
    """16 bytes that are equal for texts whose `normal_text` differs only in white space."""
    normal = " ".join(normal_text(text).split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=KEY_BYTES).digest()


def numbers(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second half of each key as numbers, which have the order of the keys.

    Args:
        keys: [n, 16] bytes.
    """
    halves = np.ascontiguousarray(keys).view(">u8").astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def equal_documents(keys: np.ndarray, folder: Path | None) -> np.ndarray:
    """The indices of the documents whose key some other one has, ascending.

    Args:
        keys: [n, 16] bytes.
        folder: Where temporary files are made; by default the system's folder for them.
    """
    is_equal = np.zeros(len(keys), bool)
    for unsorted in partitions(_records(keys), len(keys), folder):
        part = unsorted[np.lexsort((unsorted["low"], unsorted["key"]))]
        starts = starts_of(part["key"], part["low"])
        sizes = np.diff(starts, append=len(part))
        is_equal[part["document"][np.repeat(sizes > 1, sizes)]] = True
    return np.flatnonzero(is_equal)


def _records(keys: np.ndarray) -> Iterator[np.ndarray]:
    kind = np.dtype([("key", np.uint64), ("low", np.uint64), ("document", index_type(len(keys)))])
    for some in blocks(len(keys)):
        records = np.empty(some.stop - some.start, kind)
        records["key"], records["low"] = numbers(keys[some])
        records["document"] = np.arange(some.start, some.stop)
        yield records


def firsts(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The first of some documents that has the key of each.

    Args:
        keys: [n, 16] bytes.
        documents: The indices of the documents.
    """
    high, low = numbers(keys[documents])
    order = np.lexsort((low, high))
    starts = starts_of(high[order], low[order])
    first = np.empty_like(documents)
    first[order] = np.repeat(documents[order[starts]], np.diff(starts, append=len(documents)))
    return first
