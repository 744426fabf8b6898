"""The training documents as a tokenizer learns from them: all of them, or a sample where they are too many."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mlm_dist.corpus import documents

MAX_CHARS = 100_000_000  # about 20 million words; what learns from them needs memory in proportion
MAX_WORDS = 2_000_000  # counted at the same time


class TrainingTexts:
    """Texts of the wanted documents, each time it is called, in the order of the documents.

    Where they hold more than `max_chars` characters, only those documents are given whose draw falls under the share
    that fits. The draw is a hash of the text, so the sample depends on neither processes nor shards, and a document
    stays in it or out of it while the others change little.

    Args:
        shards: For each shard its file of documents and [num_documents] which of them are wanted.
        max_chars: What to give at most, up to the luck of the draw.
    """

    def __init__(self, shards: Sequence[tuple[Path, np.ndarray]], max_chars: int = MAX_CHARS) -> None:
        self._shards = shards
        self._share = 1.0
        self.num_chars = sum(map(len, self._wanted()))
        self._share = max_chars / max(self.num_chars, max_chars)

    def __call__(self) -> Iterator[str]:
        """The texts, one by one."""
        for text in self._wanted():
            if self._share == 1.0 or _draw(text) < self._share:
                yield text

    def _wanted(self) -> Iterator[str]:
        for path, wanted in self._shards:
            for group in documents.texts(path, wanted):
                yield from group

    def describe(self) -> str:
        """How much there is to learn from."""
        said = f"{self.num_chars:,} characters"
        return said if self._share == 1.0 else f"a sample by hash, {self._share:.1%}, of {said}"


def count(texts: Iterable[str], units: Callable[[str], Iterable[str]], max_words: int = MAX_WORDS) -> Counter[str]:
    """How often each unit stands in the texts.

    Whenever more than `max_words` are known, the rarest are forgotten, so that memory is bounded; what is frequent in
    the end was hardly ever rare on the way.

    Args:
        texts: The texts.
        units: Splits a text, say into words.
        max_words: Units to know at the same time.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(units(text))
        if len(counts) > max_words:
            floor = sorted(counts.values())[len(counts) - max_words // 2]
            counts = Counter({unit: number for unit, number in counts.items() if number > floor})
    return counts


def _draw(text: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"training").digest()
    return int.from_bytes(digest, "big") / 2.0**64
