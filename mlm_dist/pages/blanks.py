"""Sentences of held-out documents with a word to guess: words that matter in these documents first.

A word matters by the product of three:
- how often the training documents use it;
- how rare it is in general: its rank in the tokenizer's vocabulary, which lists tokens from common to rare (a word that
  the tokenizer splits ranks behind all of it); by Zipf's law the word at rank r occurs in proportion to 1 / r;
- how much it belongs to some documents rather than to all: its residual inverse document frequency (Church & Gale,
  1995, https://aclanthology.org/W95-0110), which is about 0 for words such as "the".
No model takes part in the choice, so that neither the starting nor the trained one is favoured by it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mlm_dist.corpus.sentences import sentences

NUM_BLANKS = 12
MAX_PIECES = 4  # tokens of a word to guess
MIN_COUNT = 5  # times in the training documents
TRAIN_CHARS, HELD_OUT_CHARS, ALL_CHARS = 8_000_000, 2_000_000, 64_000_000  # read at most, from the first document on

_WORD = re.compile(r"[^\W\d_]{3,}")
# The same, standing by itself: no part of an address, a number, an identifier or a compound.
_ALONE = re.compile(r"(?<![\w'\u2019./\\@#$%&=<>:+*~^|-])[^\W\d_]{3,}(?![\w'\u2019/\\@#$%&=<>+*~^|(\[-]|[.:]\w)")


@dataclass(frozen=True)
class Blank:
    """A sentence, and the word in it to guess.

    Args:
        document: The id of the document it is from.
        sentence: The sentence.
        start: Where the word begins in it.
        end: Where it ends.
    """

    document: str
    sentence: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word."""
        return self.sentence[self.start : self.end]

    def places(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """The sentence's ids, special tokens included, and the places of the word's tokens among them.

        There are no places where the word shares a token with its neighbours, or is not known.
        """
        encoding = tokenizer.backend_tokenizer.encode(self.sentence)
        spans = [(start, end) for start, end in encoding.offsets]
        places = [i for i, (start, end) in enumerate(spans) if start < self.end and end > self.start]
        if not places or spans[places[-1]][1] != self.end or spans[places[0]][0] not in (self.start, self.start - 1):
            return encoding.ids, []
        known = all(encoding.ids[place] != tokenizer.unk_token_id for place in places)
        return encoding.ids, places if known else []


def choose(documents: Iterable[tuple[str, str, str]], tokenizer: Any, max_length: int) -> list[Blank]:
    """The sentences to guess words of, those whose words matter most first.

    Args:
        documents: (id, split, text).
        tokenizer: The model's.
        max_length: Tokens a sentence may have, special tokens included.
    """
    words, held_out = _read(documents)
    by_word: dict[str, list[Blank]] = defaultdict(list)
    for id_, sentence in held_out:
        found: dict[str, list[re.Match[str]]] = defaultdict(list)
        for match in _WORD.finditer(sentence):
            found[match[0].casefold()].append(match)
        alone = {match.start() for match in _ALONE.finditer(sentence)}
        for word, matches in found.items():
            if len(matches) == 1 and matches[0].start() in alone:
                by_word[word].append(Blank(id_, sentence, *matches[0].span()))

    chosen: list[Blank] = []
    used_documents: Counter[str] = Counter()
    used_sentences: set[str] = set()
    for word in _by_weight(words, tokenizer):
        fresh = [blank for blank in by_word.get(word, ()) if blank.sentence not in used_sentences]
        for blank in sorted(fresh, key=lambda blank: used_documents[blank.document]):
            ids, places = blank.places(tokenizer)
            if 0 < len(places) <= MAX_PIECES and len(ids) <= max_length:
                chosen.append(blank)
                used_documents[blank.document] += 1
                used_sentences.add(blank.sentence)
                break
        if len(chosen) == NUM_BLANKS:
            break
    return chosen


@dataclass
class _Words:
    """Words of the training documents: how often each stands there as it is written, and in how many of them."""

    counts: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    num_documents: int = 0

    def add(self, text: str) -> None:
        here = Counter(_WORD.findall(text))
        self.counts.update(here)
        self.documents.update({word.casefold() for word in here})
        self.num_documents += 1


def _read(documents: Iterable[tuple[str, str, str]]) -> tuple[_Words, list[tuple[str, str]]]:
    """The words of training documents, and (id, sentence) of held-out ones; of the first of both."""
    words = _Words()
    found: list[tuple[str, str]] = []
    room = {"train": TRAIN_CHARS, "validation": HELD_OUT_CHARS}
    total = 0
    for id_, split, text in documents:
        if total > ALL_CHARS or all(left <= 0 for left in room.values()):
            break
        total += len(text)
        if room[split] <= 0:
            continue
        room[split] -= len(text)
        if split == "train":
            words.add(text)
        else:
            found += ((id_, sentence) for sentence in sentences(text))
    return words, found


def _by_weight(words: _Words, tokenizer: Any) -> list[str]:
    """All words, lower-case, those that matter most first."""
    totals: Counter[str] = Counter()
    forms: dict[str, str] = {}  # the commonest form of each
    for form, count in sorted(words.counts.items(), key=lambda item: (-item[1], item[0])):
        totals[form.casefold()] += count
        forms.setdefault(form.casefold(), form)
    rank = _ranks(tokenizer)
    frequent = sorted(word for word, count in totals.items() if count >= MIN_COUNT)
    backend = tokenizer.backend_tokenizer
    encodings = backend.encode_batch_fast([f" {forms[word]}" for word in frequent], add_special_tokens=False)
    weight = {}
    for word, encoding in zip(frequent, encodings, strict=True):
        place = rank.get(encoding.ids[0], len(rank)) if len(encoding.ids) == 1 else len(rank)
        expected = 1 - math.exp(-totals[word] / words.num_documents)  # of documents that hold it, if spread evenly
        concentration = math.log2(expected * words.num_documents / words.documents[word])
        weight[word] = totals[word] * (place + 1) * (max(concentration, 0.0) + 0.05)
    return sorted(frequent, key=lambda word: (-weight[word], word))


def _ranks(tokenizer: Any) -> dict[int, int]:
    """{token: how many words come before it in the vocabulary}, for the tokens that are words."""
    backend = tokenizer.backend_tokenizer
    spelled = ((i, token.lstrip("Ġ▁")) for token, i in tokenizer.get_vocab().items())
    words = sorted((i, text) for i, text in spelled if _WORD.fullmatch(text))
    encodings = backend.encode_batch_fast([f" {text}" for _, text in words], add_special_tokens=False)
    whole = [i for (i, _), encoding in zip(words, encodings, strict=True) if encoding.ids == [i]]
    return {token: i for i, token in enumerate(whole)}
