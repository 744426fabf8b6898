"""Domain tokens: whole words of the documents that a tokenizer cuts into pieces, added to its vocabulary."""

from __future__ import annotations

import heapq
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlm_dist.corpus.tokenizer.training_texts import count
from mlm_dist.errors import ModelError

MIN_OCCURRENCES = 2  # of a word; one that is seen once would hardly learn anything as a token of its own


@dataclass(frozen=True)
class DomainToken:
    """A word that became a token.

    Args:
        token: As it stands in the vocabulary, which may mark the space before it.
        id: Its id.
        pieces: Ids of the pieces it was cut into before.
        occurrences: How often it was counted in the training documents.
    """

    token: str
    id: int
    pieces: tuple[int, ...]
    occurrences: int


class _Candidate(NamedTuple):
    token: str
    pieces: tuple[int, ...]
    occurrences: int

    @property
    def gain(self) -> int:
        """Tokens that the documents are shorter with it."""
        return self.occurrences * (len(self.pieces) - 1)


def add(tokenizer: Any, texts: Iterable[str], limit: int) -> tuple[Any, list[DomainToken]]:
    """Add the words that shorten the texts the most, ties broken by the word; nothing else is split differently.

    - WordPiece: a word is a run of letters and digits (as regular expressions see them). A longer word that begins with
      it is split as ever, which a longer vocabulary could not promise, WordPiece being greedy; so these are added
      tokens of the `tokenizers` library. Only a symbol that is glued to one, such as ™, becomes a token of its own.
    - Byte-level BPE: a word is what the tokenizer splits off before it merges, with the space before it; the library
      looks whole words up first.
    - Unigram: a word begins behind a space and ends before what is neither letter nor digit. Its score is that of its
      pieces together, so that cuts vanish inside it and stay everywhere else. As any piece, it is also found at the
      beginning of a longer word, where there was a cut behind it before.

    A word holds a letter, no punctuation and nothing unknown to the tokenizer, and occurs at least `MIN_OCCURRENCES`
    times.

    Args:
        tokenizer: A fast tokenizer; it is left as it is.
        texts: What to count in.
        limit: How many words to add at most.

    Returns:
        The new tokenizer and what was added, in the order of the new ids.

    Raises:
        ModelError: The tokenizer is of a kind that cannot be extended without changing how other words are split.
    """
    kind = _kind(tokenizer)
    counts = count(texts, kind.units)
    found = heapq.nsmallest(limit, kind.candidates(counts), key=lambda one: (-one.gain, one.token))
    first = len(tokenizer)
    added = [DomainToken(one.token, i, one.pieces, one.occurrences) for i, one in enumerate(found, first)]
    extended = kind.extended(added) if added else tokenizer
    assert len(extended) == first + len(added)
    return extended, added


def _kind(tokenizer: Any) -> _Kind:
    model = tokenizer.backend_tokenizer.model
    name = type(model).__name__
    if name == "WordPiece":
        return _WordPiece(tokenizer)
    if name == "Unigram":
        return _Unigram(tokenizer)
    if name == "BPE" and not (model.continuing_subword_prefix or model.end_of_word_suffix):
        return _ByteLevelBPE(tokenizer)
    raise ModelError(
        f"tokenizer.add_domain_tokens: a tokenizer of this kind ({name}) cannot take words without changing how others "
        "are split; leave the key out, or name a WordPiece, byte-level BPE or Unigram tokenizer"
    )


class _Kind:
    """What is particular to a kind of tokenizer.

    Args:
        tokenizer: The one to extend.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer

    def units(self, text: str) -> list[str]:
        """What to count: the words of a text, or what holds them."""
        pretokens = self._backend.pre_tokenizer.pre_tokenize_str(self._normalized(text))
        return [unit for unit, _ in pretokens]

    def candidates(self, counts: Counter[str]) -> Iterator[_Candidate]:
        """All words that may be added."""
        for unit, occurrences in counts.items():
            if occurrences >= MIN_OCCURRENCES and self._is_word(unit):
                pieces = self._pieces(unit)
                if len(pieces) > 1:
                    yield _Candidate(unit, tuple(pieces), occurrences)

    def extended(self, added: Sequence[DomainToken]) -> Any:
        """The tokenizer with these words."""
        raise NotImplementedError

    def _is_word(self, unit: str) -> bool:
        raise NotImplementedError

    def _normalized(self, text: str) -> str:
        normalizer = self._backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _pieces(self, unit: str) -> list[int]:
        """Ids of the pieces; none where a part of the unit is unknown."""
        ids = [token.id for token in self._backend.model.tokenize(unit)]
        return [] if self._tokenizer.unk_token_id in ids else ids

    def _rebuilt(self, described: dict[str, Any]) -> Any:
        """A tokenizer from a description of its backend, with the special tokens of the old one.

        It is of the library's general class: the classes of single models build their backend anew from its vocabulary
        alone, and would forget how words are looked up.
        """
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        old = self._tokenizer
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(described)),
            **{name: getattr(old, name) for name in ("model_max_length", "model_input_names")},
            **{name: getattr(old, name) for name in ("padding_side", "truncation_side")},
            clean_up_tokenization_spaces=False,
            **old.special_tokens_map,
        )


class _WordPiece(_Kind):
    def units(self, text: str) -> list[str]:
        from tokenizers import pre_tokenizers

        runs = pre_tokenizers.Whitespace().pre_tokenize_str(self._normalized(text))  # \w+|[^\w\s]+
        return [unit for unit, _ in runs]

    def extended(self, added: Sequence[DomainToken]) -> Any:
        described = json.loads(self._backend.to_str())
        # single_word means that no letter, digit or underscore may stand before or behind it.
        flags = {"single_word": True, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        described["added_tokens"] += [{"id": one.id, "content": one.token, **flags} for one in added]
        return self._rebuilt(described)

    def _is_word(self, unit: str) -> bool:
        # The tokenizer's own rule for words may be narrower than \w+, and is what counts.
        words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(unit)]
        return _is_word(unit) and words == [unit] and self._backend.token_to_id(unit) is None


class _ByteLevelBPE(_Kind):
    def extended(self, added: Sequence[DomainToken]) -> Any:
        described = json.loads(self._backend.to_str())
        vocab = described["model"]["vocab"]
        vocab |= {token["content"]: token["id"] for token in described["added_tokens"]}  # ids shall have no gaps
        vocab |= {one.token: one.id for one in added}
        described["model"]["ignore_merges"] = True  # whole words first
        return self._rebuilt(described)

    def _is_word(self, unit: str) -> bool:
        return _is_word(self._backend.decoder.decode([unit]).removeprefix(" "))


class _Unigram(_Kind):
    def candidates(self, counts: Counter[str]) -> Iterator[_Candidate]:
        words: Counter[str] = Counter()
        pieces: dict[str, tuple[int, ...]] = {}
        for unit, occurrences in counts.items():
            end = next((i for i, letter in enumerate(unit[1:], 1) if not _is_letter(letter)), len(unit))
            if unit[0] != "▁" or not _is_word(unit[1:end]):
                continue
            tokens = self._backend.model.tokenize(unit)
            ends = [0]
            for token in tokens:
                ends.append(ends[-1] + len(token.value))
            if (
                ends[-1] == len(unit) and end in ends
            ):  # else bytes stand for letters, or a piece goes on behind the word
                words[unit[:end]] += occurrences
                pieces[unit[:end]] = tuple(token.id for token in tokens[: ends.index(end)])
        for word, occurrences in words.items():
            known = self._tokenizer.unk_token_id not in pieces[word]
            if occurrences >= MIN_OCCURRENCES and len(pieces[word]) > 1 and known:
                yield _Candidate(word, pieces[word], occurrences)

    def extended(self, added: Sequence[DomainToken]) -> Any:
        described = json.loads(self._backend.to_str())
        vocab = described["model"]["vocab"]
        score = dict(vocab)
        for token in described["added_tokens"]:  # ids shall have no gaps
            if token["id"] == len(vocab):
                vocab.append([token["content"], 0.0])
        names = [name for name, _ in vocab]
        for one in added:
            # A little more than its pieces have, so that it is preferred to them, and to a shorter new word among them.
            bonus = 1e-6 * (len(one.pieces) - 1)
            vocab.append([one.token, sum(score[names[piece]] for piece in one.pieces) + bonus])
        return self._rebuilt(described)


def _is_word(text: str) -> bool:
    return len(text) > 1 and any(map(str.isalpha, text)) and all(map(_is_letter, text))


def _is_letter(letter: str) -> bool:
    """Whether a letter, a mark on one, or a digit."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")
