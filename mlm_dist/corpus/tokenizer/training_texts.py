"""The training documents that a tokenizer is trained on: all of them, or a sample of a large corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mlm_dist.corpus import document_files

MAX_CHARS = 100_000_000  # about 20 million words; training needs memory in proportion
MAX_WORDS = 2_000_000  # distinct words in memory


class TrainingTexts:
    """The texts of the wanted documents in order; each call iterates over them again.

    If they hold more than `max_chars` characters, a sample is used: the documents whose hash, as a number from 0 to 1,
    is under the fraction that fits. It is a hash of the id, so that texts outside of the sample are not read. The
    sample depends on neither processes nor shards, and changes little if the corpus changes little.

    Args:
        shards: For each shard its file of documents, and [num_documents] booleans: which are wanted.
        max_chars: Expected size of a sample.
    """

    def __init__(self, shards: Sequence[tuple[Path, np.ndarray]], max_chars: int = MAX_CHARS) -> None:
        self._shards, self._max_chars = shards, max_chars

    @cached_property
    def num_chars(self) -> int:
        """Characters of all wanted texts."""
        return sum(int(_chars(path)[wanted].sum()) for path, wanted in self._shards)

    @property
    def fraction(self) -> float:
        """Fraction of the texts in the sample; 1 if all are used."""
        return self._max_chars / max(self.num_chars, self._max_chars)

    def __call__(self) -> Iterator[str]:
        """The texts, one by one."""
        for path, wanted in self._sample:
            for group in document_files.texts(path, wanted):
                yield from group

    @cached_property
    def _sample(self) -> Sequence[tuple[Path, np.ndarray]]:
        """For each shard its file, and which of its documents are used."""
        fraction = self.fraction
        if fraction == 1.0:
            return self._shards
        return [(path, _drawn(path, wanted, fraction)) for path, wanted in self._shards]

    def describe(self) -> str:
        """The size of the texts, for messages."""
        size = f"{self.num_chars:,} characters"
        return size if self.fraction == 1.0 else f"a sample by hash, {self.fraction:.1%}, of {size}"


def count(texts: Iterable[str], units: Callable[[str], Iterable[str]], max_words: int = MAX_WORDS) -> Counter[str]:
    """Count how often each unit occurs in the texts, within bounded memory.

    Whenever there are more than `max_words` distinct units, the rarest are removed. A unit that is frequent in all
    texts together is hardly ever among the rarest of some of them.

    Args:
        texts: The texts.
        units: Splits a text into units, such as words.
        max_words: Distinct units to keep.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(units(text))
        if len(counts) > max_words:
            floor = sorted(counts.values())[len(counts) - max_words // 2]
            counts = Counter({unit: number for unit, number in counts.items() if number > floor})
    return counts


def _chars(path: Path) -> np.ndarray:
    """The number of characters of each document of a shard."""
    return np.concatenate([np.empty(0, np.int64), *document_files.values(path, "chars", np.dtype(np.int64))])


def _drawn(path: Path, wanted: np.ndarray, fraction: float) -> np.ndarray:
    """Those of the wanted documents of a shard that are in the sample."""
    names = (id_ for ids in document_files.ids(path, wanted) for id_ in ids.to_pylist())
    drawn = wanted.copy()
    drawn[wanted] = [_draw(id_) < fraction for id_ in names]
    return drawn


def _draw(id_: str) -> float:
    """A hash of the id, from 0 to 1."""
    digest = hashlib.blake2b(id_.encode("utf-8"), digest_size=8, person=b"training").digest()
    return int.from_bytes(digest, "big") / 2.0**64
