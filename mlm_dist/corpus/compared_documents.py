"""What is known of the documents of a corpus when duplicates are searched: most of it is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import document_files
from mlm_dist.corpus.shingle_sets import ShingleSets
from mlm_dist.corpus.signatures import NUM_PERM, SIGNATURE_TYPE
from mlm_dist.corpus.temporary_arrays import temporary_array
from mlm_dist.corpus.text_keys import KEY_BYTES


@dataclass(frozen=True)
class Documents:
    """What is known of all documents of the corpus, in order.

    Args:
        keys: [n, 16] bytes, their `text_key`.
        signatures: Their `signatures.signatures`, in blocks; not read if near-duplicates make no difference.
        ids: Returns the ids of those that [n] booleans choose, in order, as Arrow arrays.
        chars: [n] their characters.
        texts: Returns the texts of those that [n] booleans choose, in order.
        folder: Where temporary files are made; by default the system's folder for them.
    """

    keys: np.ndarray
    signatures: Iterable[np.ndarray]
    ids: Callable[[np.ndarray], Iterable[Any]]
    chars: np.ndarray
    texts: Callable[[np.ndarray], Iterable[str]]
    folder: Path | None = None

    @classmethod
    def of(cls, paths: Sequence[Path], counts: Sequence[int], folder: Path) -> Documents:
        """The documents of all shards.

        Args:
            paths: The shards, as `documents.write` wrote them.
            counts: Documents of each.
            folder: Where temporary files are made.
        """
        total = sum(counts)
        keys, chars = temporary_array((total, KEY_BYTES), np.uint8, folder), temporary_array(total, np.int64, folder)
        for name, array in (("key", keys.reshape(-1)), ("chars", chars)):
            start = 0
            for block in _column(paths, name, array.dtype):
                array[start : start + len(block)] = block
                start += len(block)

        def texts(wanted: np.ndarray) -> Iterator[str]:
            for path, part in _parts(paths, counts, wanted):
                for _, text, ids in chain.from_iterable(document_files.contents(path, part)):
                    yield text if ids is None else document_files.text_of_ids(ids.tolist())

        def ids(wanted: np.ndarray) -> Iterator[Any]:
            for path, part in _parts(paths, counts, wanted):
                yield from document_files.ids(path, part)

        signatures = (block.reshape(-1, NUM_PERM) for block in _column(paths, "signature", SIGNATURE_TYPE))
        return cls(keys, signatures, ids, chars, texts, folder)

    def shingles(self, indices: np.ndarray) -> ShingleSets:
        """The shingles of the documents at some distinct indices."""
        wanted = np.zeros(len(self.keys), bool)
        wanted[indices] = True
        sets = ShingleSets(self.texts(wanted), self.folder)
        order = np.empty(len(indices), np.int64)
        order[np.argsort(indices)] = np.arange(len(indices))
        sets.reorder(order)
        return sets


def _column(paths: Sequence[Path], name: str, kind: np.dtype[Any]) -> Iterator[np.ndarray]:
    for path in paths:
        yield from document_files.values(path, name, kind)


def _parts(paths: Sequence[Path], counts: Sequence[int], wanted: np.ndarray) -> Iterator[tuple[Path, np.ndarray]]:
    """The shards with wanted documents, and which of their documents are wanted."""
    start = 0
    for path, count in zip(paths, counts, strict=True):
        part = wanted[start : start + count]
        if part.any():
            yield path, part
        start += count
