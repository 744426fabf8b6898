"""How much each word matters in a set of documents.

The importance of a word is the product of three factors:

- how often the documents use it;
- how rare it is in general: its rank in the tokenizer's vocabulary, which lists tokens from common to rare (a word
  that the tokenizer splits ranks after all of them); by Zipf's law the word at rank r occurs in proportion to 1 / r;
- how much it is concentrated in some documents: its residual inverse document frequency (Church & Gale, 1995,
  https://aclanthology.org/W95-0110), which is about 0 for words such as "the".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MIN_COUNT = 5  # occurrences of a word in the documents
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass
class WordCounts:
    """Words of a set of documents.

    Args:
        counts: Occurrences of each word as it is spelled.
        documents: Number of documents that hold each word, in lower case.
        num_documents: Number of documents.
    """

    counts: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    num_documents: int = 0

    def add(self, text: str) -> None:
        """Count the words of a document."""
        words = Counter(WORD.findall(text))
        self.counts.update(words)
        self.documents.update({word.casefold() for word in words})
        self.num_documents += 1

    def by_importance(self, tokenizer: Any) -> list[str]:
        """All words of at least `MIN_COUNT` occurrences, in lower case, the most important first."""
        totals: Counter[str] = Counter()
        spellings: dict[str, str] = {}  # the most common spelling of each word
        for spelling, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            totals[spelling.casefold()] += count
            spellings.setdefault(spelling.casefold(), spelling)
        ranks = _vocabulary_ranks(tokenizer)
        frequent = sorted(word for word, count in totals.items() if count >= MIN_COUNT)
        texts = [f" {spellings[word]}" for word in frequent]
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        importance = {}
        for word, encoding in zip(frequent, encodings, strict=True):
            rank = ranks.get(encoding.ids[0], len(ranks)) if len(encoding.ids) == 1 else len(ranks)
            # The share of documents that would hold the word if its occurrences were spread at random.
            expected = 1 - math.exp(-totals[word] / self.num_documents)
            concentration = math.log2(expected * self.num_documents / self.documents[word])
            importance[word] = totals[word] * (rank + 1) * (max(concentration, 0.0) + 0.05)
        return sorted(frequent, key=lambda word: (-importance[word], word))


def _vocabulary_ranks(tokenizer: Any) -> dict[int, int]:
    """{token id: number of words before it in the vocabulary}, for the tokens that are whole words."""
    spelled = ((i, token.lstrip("Ġ▁")) for token, i in tokenizer.get_vocab().items())
    words = sorted((i, text) for i, text in spelled if WORD.fullmatch(text))
    texts = [f" {text}" for _, text in words]
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    whole = [i for (i, _), encoding in zip(words, encodings, strict=True) if encoding.ids == [i]]
    return {token: i for i, token in enumerate(whole)}
