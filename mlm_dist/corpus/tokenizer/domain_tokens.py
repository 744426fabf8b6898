"""Domain tokens: words of the documents that a tokenizer splits into pieces, added to its vocabulary as tokens."""

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

# Settings of the original tokenizer that the extended one keeps.
_KEPT = (
    *("model_max_length", "model_input_names", "padding_side", "truncation_side", "pad_token_type_id"),
    *("clean_up_tokenization_spaces", "split_special_tokens", "chat_template"),
)
MIN_OCCURRENCES = 2  # of a word; the embedding of a word seen once would hardly be trained


@dataclass(frozen=True)
class DomainToken:
    """A word that became a token.

    Args:
        token: Its entry in the vocabulary, which may mark the space before it.
        id: Its id.
        pieces: Ids of the pieces that the original tokenizer splits it into.
        occurrences: Occurrences in the training documents.
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
        """Tokens that the documents are shorter with this token."""
        return self.occurrences * (len(self.pieces) - 1)


def add(tokenizer: Any, texts: Iterable[str], limit: int) -> tuple[Any, list[DomainToken]]:
    """Add the words that shorten the texts the most; all other words are split as before. Ties go by the word.

    - WordPiece: a word is a run of letters and digits (`\\w+`). The words are added tokens of the `tokenizers` library,
      because a longer vocabulary would also change how longer words with the same beginning are split. A symbol
      directly after such a word, such as ™, becomes a token.
    - Byte-level BPE: a word is a pre-token, with the space before it; the library looks up whole words first.
    - Unigram: a word begins after a space and ends before a character that is neither letter nor digit. Its score is
      the sum of its pieces' scores, so that it replaces exactly these pieces. Like any piece, it also matches the
      beginning of a longer word that was split at its end before.

    A word has a letter, no punctuation, no unknown piece, and occurs at least `MIN_OCCURRENCES` times.

    Args:
        tokenizer: A fast tokenizer; it is not changed.
        texts: Texts in which words are counted.
        limit: Words to add at most.

    Returns:
        The new tokenizer, and the added tokens in the order of their ids.

    Raises:
        ModelError: The kind of tokenizer cannot be extended without changing how other words are split.
    """
    kind = _kind(tokenizer)
    counts = count(texts, kind.units)
    best = heapq.nsmallest(limit, kind.candidates(counts), key=lambda one: (-one.gain, one.token))
    first = len(tokenizer)
    added = [DomainToken(one.token, i, one.pieces, one.occurrences) for i, one in enumerate(best, first)]
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
        f"tokenizer.add_domain_tokens: words cannot be added to a tokenizer of this kind ({name}) without changing how "
        "others are split; set the key to null, or name a WordPiece, byte-level BPE or Unigram tokenizer"
    )


class _Kind:
    """How words are found in and added to a kind of tokenizer.

    Args:
        tokenizer: The tokenizer to extend.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer

    def units(self, text: str) -> list[str]:
        """The units to count: the words of a text, or strings that contain one."""
        pretokens = self._backend.pre_tokenizer.pre_tokenize_str(self._normalized(text))
        return [unit for unit, _ in pretokens]

    def candidates(self, counts: Counter[str]) -> Iterator[_Candidate]:
        """The words that may be added."""
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
        """Ids of the pieces; an empty list if a part of the unit is unknown."""
        ids = [token.id for token in self._backend.model.tokenize(unit)]
        return [] if self._tokenizer.unk_token_id in ids else ids

    def _rebuilt(self, description: dict[str, Any]) -> Any:
        """A tokenizer with this backend and the special tokens of the original.

        It is a `PreTrainedTokenizerFast`, because the classes of single models rebuild the backend from its vocabulary
        alone and lose added settings.
        """
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        old = self._tokenizer
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(description)),
            **{name: getattr(old, name) for name in _KEPT if getattr(old, name, None) is not None},
            **old.special_tokens_map,
            **({"extra_special_tokens": old.extra_special_tokens} if old.extra_special_tokens else {}),
        )


class _WordPiece(_Kind):
    def units(self, text: str) -> list[str]:
        from tokenizers import pre_tokenizers

        runs = pre_tokenizers.Whitespace().pre_tokenize_str(self._normalized(text))  # \w+|[^\w\s]+
        return [unit for unit, _ in runs]

    def extended(self, added: Sequence[DomainToken]) -> Any:
        description = json.loads(self._backend.to_str())
        # single_word: no letter, digit or underscore may come directly before or after the token.
        flags = {"single_word": True, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        description["added_tokens"] += [{"id": one.id, "content": one.token, **flags} for one in added]
        return self._rebuilt(description)

    def _is_word(self, unit: str) -> bool:
        # The tokenizer's own rule for words may be narrower than \w+ and applies.
        words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(unit)]
        return _is_word(unit) and words == [unit] and self._backend.token_to_id(unit) is None


class _ByteLevelBPE(_Kind):
    def extended(self, added: Sequence[DomainToken]) -> Any:
        description = json.loads(self._backend.to_str())
        vocab = description["model"]["vocab"]
        vocab |= {token["content"]: token["id"] for token in description["added_tokens"]}  # ids must have no gaps
        vocab |= {one.token: one.id for one in added}
        description["model"]["ignore_merges"] = True  # whole words first
        return self._rebuilt(description)

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
            ):  # otherwise letters are split into bytes, or a piece crosses the end of the word
                words[unit[:end]] += occurrences
                pieces[unit[:end]] = tuple(token.id for token in tokens[: ends.index(end)])
        for word, occurrences in words.items():
            known = self._tokenizer.unk_token_id not in pieces[word]
            if occurrences >= MIN_OCCURRENCES and len(pieces[word]) > 1 and known:
                yield _Candidate(word, pieces[word], occurrences)

    def extended(self, added: Sequence[DomainToken]) -> Any:
        description = json.loads(self._backend.to_str())
        vocab = description["model"]["vocab"]
        score = dict(vocab)
        for token in description["added_tokens"]:  # ids must have no gaps
            if token["id"] == len(vocab):
                vocab.append([token["content"], 0.0])
        names = [name for name, _ in vocab]
        for one in added:
            # The bonus makes the word preferred to its pieces, and to a shorter new word among them.
            bonus = 1e-6 * (len(one.pieces) - 1)
            vocab.append([one.token, sum(score[names[piece]] for piece in one.pieces) + bonus])
        return self._rebuilt(description)


def _is_word(text: str) -> bool:
    return len(text) > 1 and any(map(str.isalpha, text)) and all(map(_is_letter, text))


def _is_letter(letter: str) -> bool:
    """Whether a character is a letter, a combining mark or a digit."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")
