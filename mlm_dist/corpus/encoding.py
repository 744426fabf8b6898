"""Many texts into one flat array of ids, by the fastest way that gives what the tokenizer gives."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

FIRST_SAMPLE = 16  # texts of the first call that are encoded by the tokenizer as well; then one a call
_STRIDE = 2654435761  # an odd number, large and without pattern: it leads to another place each time
MAX_WORDS = 1 << 20  # remembered at a time
# What separates words in the eyes of every tokenizer; others of Unicode's spaces stay inside a word, which is as good.
_SPACES = str.maketrans("\n\t\r", "   ")


class Way(Protocol):
    """Turns texts into ids, without special tokens."""

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of shape [num_tokens], int32, text after text; and lengths of shape [num_texts], int64."""
        ...


class Encoder:
    """Texts to ids, without special tokens.

    A faster way than the tokenizer's own is used where there is one: nanotoken (the `fast` extra) where it is installed
    and knows the tokenizer, else a memory of words. Its ids are compared with those of the tokenizer itself, on many
    texts of the first call and one of every other; at the first difference it is put aside with a warning and the call
    is done again without it.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._exact = ByTokenizer(tokenizer.backend_tokenizer)
        self.vocab_size = len(tokenizer)
        self.fast: Way | None = ByNanotoken.fit(tokenizer.backend_tokenizer) or ByWords.fit(tokenizer.backend_tokenizer)
        self._calls = 0

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of all texts.

        Returns:
            Ids of shape [num_tokens], int32, text after text; and lengths of shape [num_texts], int64.
        """
        if self.fast is not None and texts:
            ids, lengths = self.fast(texts)
            sample = self._sample(len(texts))
            expected, expected_lengths = self._exact([texts[i] for i in sample])
            ends = np.cumsum(lengths)
            if np.array_equal(lengths[sample], expected_lengths) and np.array_equal(
                np.concatenate([ids[ends[i] - lengths[i] : ends[i]] for i in sample]), expected
            ):
                return ids, lengths
            warnings.warn(
                f"{self.fast} splits some text differently than the tokenizer; going on without it", stacklevel=2
            )
            self.fast = None
        return self._exact(texts)

    def _sample(self, count: int) -> list[int]:
        """Which of `count` texts to compare, every time others."""
        self._calls += 1
        if self._calls == 1:
            return list(range(0, count, max(1, count // FIRST_SAMPLE)))
        return [self._calls * _STRIDE % count]


class ByTokenizer:
    """The tokenizer itself."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Way`."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        lengths = np.array([len(one) for one in ids], np.int64)
        return np.concatenate(ids) if ids else np.empty(0, np.int32), lengths


class ByNanotoken:
    """nanotoken's WordPiece, which gives ids and offsets as arrays."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def fit(cls, backend: Any) -> ByNanotoken | None:
        """For this tokenizer, if nanotoken is there and knows its kind."""
        if importlib.util.find_spec("nanotoken") is None:
            return None
        import nanotoken

        try:
            return cls(nanotoken.Tokenizer.from_json(backend.to_str()))
        except nanotoken.UnsupportedTokenizerError:  # no WordPiece, or none it knows
            return None

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Way`."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return found.ids.astype(np.int32), np.diff(found.offsets).astype(np.int64)

    def __str__(self) -> str:
        return "nanotoken"


class ByWords:
    """A tokenizer that takes each word for itself, and so needs to see each word but once.

    Args:
        backend: A tokenizer for which `fit` holds.
    """

    def __init__(self, backend: Any) -> None:
        self._exact = ByTokenizer(backend)
        self._numbers: dict[str, int] = {}
        self._ids: np.ndarray = np.empty(0, np.int32)  # of all words, one after the other
        self._starts: np.ndarray = np.empty(0, np.int64)
        self._lengths: np.ndarray = np.empty(0, np.int64)

    @classmethod
    def fit(cls, backend: Any) -> ByWords | None:
        """For this tokenizer, if a space ends whatever it looks at."""
        described = json.loads(backend.to_str())
        kinds = [(described[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        by_words = kinds[0] in (None, "BertNormalizer") and kinds[1:] == ["BertPreTokenizer", "WordPiece"]
        reaching = any(
            token["lstrip"] or token["rstrip"] or len(token["content"].split()) != 1
            for token in described["added_tokens"]
        )
        return cls(backend) if by_words and not reaching else None

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Way`."""
        split = [text.translate(_SPACES).split(" ") for text in texts]
        unknown = list(dict.fromkeys(word for words in split for word in words if word not in self._numbers))
        if len(self._numbers) + len(unknown) > MAX_WORDS:
            self._numbers.clear()
            self._ids, self._starts, self._lengths = self._ids[:0], self._starts[:0], self._lengths[:0]
            unknown = list(dict.fromkeys(word for words in split for word in words))
        self._learn(unknown)
        counts = np.array([len(words) for words in split], np.int64)
        words = np.empty(int(counts.sum()), np.int64)
        end = 0
        for one in split:
            start, end = end, end + len(one)
            words[start:end] = np.fromiter(map(self._numbers.__getitem__, one), np.int64, len(one))
        lengths = self._lengths[words]
        ends = np.cumsum(lengths)
        shift = self._starts[words] - (ends - lengths)  # from where a word's tokens go to where they come from
        ids = self._ids[np.arange(int(lengths.sum())) + np.repeat(shift, lengths)]
        return ids, np.diff(np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])])

    def __str__(self) -> str:
        return "a memory of words"

    def _learn(self, words: list[str]) -> None:
        if words:
            ids, lengths = self._exact(words)
            self._numbers.update(zip(words, range(len(self._numbers), len(self._numbers) + len(words)), strict=True))
            self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
            self._ids, self._lengths = np.concatenate([self._ids, ids]), np.concatenate([self._lengths, lengths])
