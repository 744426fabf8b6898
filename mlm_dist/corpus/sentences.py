"""Sentences of prose in documents of any kind."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator

MAX_CHARS = 240
CHARS_READ = 16_000_000
_END_MARKS = ".!?\u3002\uff01\uff1f"  # including Chinese and Japanese
_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")
_PROSE = re.compile(rf"[\w\s,;:'\u2019\"“”()\uff0c\u3001{_END_MARKS}-]+")


def sentences(text: str) -> Iterator[str]:
    """The whole sentences of prose in a text, without headings, tables, lists and code."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph[:1].isspace():
            continue  # indented: most likely code
        for sentence in _END.split(" ".join(paragraph.split())):
            letters = sum(letter.isalpha() or letter.isspace() for letter in sentence)
            if (
                40 <= len(sentence) <= MAX_CHARS
                and sentence[0].isalpha()
                and sentence[0] == sentence[0].upper()
                and sentence[-1] in _END_MARKS
                and letters >= 0.9 * len(sentence)
                and _PROSE.fullmatch(sentence)
            ):
                yield sentence


def sample(texts: Iterable[str], count: int) -> list[str]:
    """`count` distinct sentences of some texts: those with the smallest hashes, so always the same.

    Args:
        texts: The texts, read until they have more than `CHARS_READ` characters.
        count: Sentences to return; fewer if the texts have fewer.
    """
    distinct: set[str] = set()
    read = 0
    for text in texts:
        distinct.update(sentences(text))
        read += len(text)
        if read > CHARS_READ:
            break
    return heapq.nsmallest(count, distinct, key=lambda sentence: hashlib.blake2b(sentence.encode("utf-8")).digest())
