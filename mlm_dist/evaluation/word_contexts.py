"""How well the neighbours of a word predict it, counted in the training documents; no model takes part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

DOUBT = 20  # occurrences of other words that a context is assumed to have had: rare ones teach a model little
_TOKEN = re.compile(r"\w+|[^\w\s]")

Context = tuple[int, str, str]


def contexts(tokens: Sequence[str], i: int) -> Iterator[Context]:
    """The contexts of a token: the two before it, the one on each side, the two after it."""
    for kind, first, second in ((0, i - 2, i - 1), (1, i - 1, i + 1), (2, i + 1, i + 2)):
        if first >= 0 and second < len(tokens):
            yield kind, tokens[first], tokens[second]


def split(text: str) -> list[str]:
    """The words, numbers and punctuation of a text, in lower case."""
    return _TOKEN.findall(text.casefold())


class WordContexts:
    """What stands in the contexts of some sentences, counted in other texts.

    Args:
        sentences: The sentences; only their contexts are counted, so that memory does not grow with the texts.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self._counts: dict[Context, Counter[str]] = {}
        for sentence in sentences:
            tokens = split(sentence)
            for i in range(len(tokens)):
                for context in contexts(tokens, i):
                    self._counts.setdefault(context, Counter())

    def add(self, text: str) -> None:
        """Count a text."""
        tokens = split(text)
        for i, token in enumerate(tokens):
            for context in contexts(tokens, i):
                if (counter := self._counts.get(context)) is not None:
                    counter[token] += 1

    def predictability(self, sentence: str, start: int) -> float:
        """The share of a word in the context that predicts it best, from 0 to 1; few occurrences count for less.

        Args:
            sentence: One of the sentences.
            start: Index of the word's first character.
        """
        i, tokens = len(split(sentence[:start])), split(sentence)
        counters = (self._counts[context] for context in contexts(tokens, i))
        return max((counter[tokens[i]] / (counter.total() + DOUBT) for counter in counters), default=0.0)
