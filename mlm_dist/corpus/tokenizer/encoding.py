"""Many texts into one flat array of ids, by the fastest way that gives what the tokenizer gives."""

from __future__ import annotations

import importlib.util
import json
import threading
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mlm_dist.corpus.tokenizer.word_starts import ByMarkingTokenizer

SAMPLE = 8  # texts of each call that are encoded by the tokenizer as well,
EXCERPT = 512  # so many characters of each, but in the first call, which has them whole
MAX_WORDS, MAX_CHARS = 1 << 20, 1 << 24  # remembered at a time; where there are no spaces, a line is a word


class Way(Protocol):
    """Turns texts into ids, without special tokens."""

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of shape [num_tokens], int32, text after text; and lengths of shape [num_texts], int64."""
        ...


class Encoder:
    """Texts to ids, without special tokens.

    A faster way than the tokenizer's own is used where there is one: nanotoken (the `fast` extra) where it is installed
    and knows the tokenizer, else a memory of words. Its ids are compared with those of the tokenizer itself on a
    sample of every call; at the first difference it is put aside with a warning. Several threads may call: one of them
    encodes at a time.

    Args:
        tokenizer: A fast tokenizer.
        marking: Whether ids carry `words.BEGINS` where a word begins; nanotoken cannot tell.
    """

    def __init__(self, tokenizer: Any, *, marking: bool = False) -> None:
        backend = tokenizer.backend_tokenizer
        self._exact: Way = ByMarkingTokenizer(backend) if marking else ByTokenizer(backend)
        self.vocab_size = len(tokenizer)
        self.fast: Way | None = (None if marking else ByNanotoken.fit(backend)) or ByWords.fit(backend, self._exact)
        self._is_first = True
        self._busy = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of all texts.

        Returns:
            Ids of shape [num_tokens], int32, text after text; and lengths of shape [num_texts], int64.
        """
        with self._busy:
            if self.fast is not None and not self._agrees(self.fast, self._sample(texts)):
                warnings.warn(
                    f"{self.fast} splits some text differently than the tokenizer; going on without it", stacklevel=2
                )
                self.fast = None
            return (self.fast or self._exact)(texts)

    def _agrees(self, fast: Way, sample: Sequence[str]) -> bool:
        return all(map(np.array_equal, fast(sample), self._exact(sample)))

    def _sample(self, texts: Sequence[str]) -> list[str]:
        """What to compare: whole texts in the first call, later excerpts, of every text from another place."""
        chosen = texts[:: max(1, len(texts) // SAMPLE)]
        if self._is_first:
            self._is_first = False
            return list(chosen)
        hashes = [zlib.crc32(text[:EXCERPT].encode("utf-8", "replace")) for text in chosen]
        starts = [one % max(1, len(text) - EXCERPT) for one, text in zip(hashes, chosen, strict=True)]
        return [text[start : start + EXCERPT] for text, start in zip(chosen, starts, strict=True)]


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
        exact: The way of a tokenizer for which `fit` holds.
    """

    def __init__(self, exact: Way) -> None:
        self._exact = exact
        self._forget()

    @classmethod
    def fit(cls, backend: Any, exact: Way | None = None) -> ByWords | None:
        """For this tokenizer, if a space ends whatever it looks at; `exact` is by default its own way."""
        described = json.loads(backend.to_str())
        kinds = [(described[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        by_words = kinds[0] in (None, "BertNormalizer") and kinds[1:] == ["BertPreTokenizer", "WordPiece"]
        reaching = any(
            token["lstrip"] or token["rstrip"] or len(token["content"].split()) != 1
            for token in described["added_tokens"]
        )
        return cls(exact or ByTokenizer(backend)) if by_words and not reaching else None

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Way`."""
        # What every tokenizer takes for a space; others of Unicode's spaces stay inside a word, which is as good.
        split = [text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ") for text in texts]
        self._learn(list(set().union(*split).difference(self._numbers)))
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
        if len(self._numbers) > MAX_WORDS or self._chars > MAX_CHARS:
            self._forget()
        return ids, np.diff(np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])])

    def __str__(self) -> str:
        return "a memory of words"

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._chars = 0  # of all words together
        self._ids: np.ndarray = np.empty(0, np.int32)  # of all words, one after the other
        self._starts: np.ndarray = np.empty(0, np.int64)
        self._lengths: np.ndarray = np.empty(0, np.int64)

    def _learn(self, words: list[str]) -> None:
        if words:
            self._chars += sum(map(len, words))
            ids, lengths = self._exact(words)
            self._numbers.update(zip(words, range(len(self._numbers), len(self._numbers) + len(words)), strict=True))
            self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
            self._ids, self._lengths = np.concatenate([self._ids, ids]), np.concatenate([self._lengths, lengths])
