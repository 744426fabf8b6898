"""Tokenizing many texts into one flat array of ids, with the fastest method that gives the tokenizer's own ids."""

from __future__ import annotations

import importlib.util
import json
import logging
import threading
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mlm_dist.corpus.tokenizer import ordinary_text
from mlm_dist.corpus.tokenizer.word_starts import WordStartTokenizer

SAMPLE = 8  # texts per call that are compared with the tokenizer itself
EXCERPT = 512  # characters of each of them that are compared, after the first call
MAX_WORDS, MAX_CHARS = 1 << 20, 1 << 24  # of a word cache; in text without spaces, a line is a word

logger = logging.getLogger(__name__)


class Method(Protocol):
    """Tokenizes texts, without special tokens."""

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids, [num_tokens], int32, text after text, and lengths, [num_texts], int64."""
        ...


class BatchTokenizer:
    """Tokenizes texts, without special tokens; the name of one, such as [MASK], is ordinary text.

    A faster method than the tokenizer itself is used if there is one: nanotoken (the `fast` extra) if it is installed
    and supports the tokenizer, else a word cache. In every call, its ids are compared with the tokenizer's on a sample
    of the texts; at the first difference the method is dropped with a warning. It may be called from several threads,
    which take turns.

    Args:
        tokenizer: A fast tokenizer.
        word_starts: Whether ids are marked with `word_starts.WORD_START` where a word begins; nanotoken cannot tell.
    """

    def __init__(self, tokenizer: Any, *, word_starts: bool = False) -> None:
        backend = ordinary_text.backend(tokenizer)
        self._exact: Method = WordStartTokenizer(backend) if word_starts else ExactTokenizer(backend)
        self.vocab_size = len(tokenizer)
        self.fast: Method | None = (None if word_starts else Nanotoken.fit(backend)) or WordCache.fit(
            backend, self._exact
        )
        self._is_first = True
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of all texts.

        Returns:
            Ids, [num_tokens], int32, text after text, and lengths, [num_texts], int64.
        """
        with self._lock:
            if self.fast is not None and not self._agrees(self.fast, self._sample(texts)):
                logger.warning("%s splits some text differently than the tokenizer and is not used", self.fast)
                self.fast = None
            return (self.fast or self._exact)(texts)

    def _agrees(self, fast: Method, sample: Sequence[str]) -> bool:
        return all(map(np.array_equal, fast(sample), self._exact(sample)))

    def _sample(self, texts: Sequence[str]) -> list[str]:
        """The texts to compare: whole ones in the first call, then excerpts from a different position of each."""
        chosen = texts[:: max(1, len(texts) // SAMPLE)]
        if self._is_first:
            self._is_first = False
            return list(chosen)
        hashes = [zlib.crc32(text[:EXCERPT].encode("utf-8", "replace")) for text in chosen]
        starts = [one % max(1, len(text) - EXCERPT) for one, text in zip(hashes, chosen, strict=True)]
        return [text[start : start + EXCERPT] for text, start in zip(chosen, starts, strict=True)]


class ExactTokenizer:
    """The tokenizer itself."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Method`."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        lengths = np.array([len(one) for one in ids], np.int64)
        return np.concatenate(ids) if ids else np.empty(0, np.int32), lengths


class Nanotoken:
    """nanotoken's WordPiece, which returns ids and offsets as arrays."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def fit(cls, backend: Any) -> Nanotoken | None:
        """For this tokenizer, if nanotoken is installed and supports it."""
        if importlib.util.find_spec("nanotoken") is None:
            return None
        import nanotoken

        try:
            return cls(nanotoken.Tokenizer.from_json(backend.to_str()))
        except nanotoken.UnsupportedTokenizerError:  # not WordPiece, or an unsupported variant
            return None

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Method`."""
        result = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return result.ids.astype(np.int32), np.diff(result.offsets).astype(np.int64)

    def __str__(self) -> str:
        return "nanotoken"


def _types(part: dict[str, Any] | None) -> list[str]:
    """The types of a part of a tokenizer, or of the steps of a sequence."""
    steps = [] if part is None else part.get("normalizers", part.get("pretokenizers", [part]))
    return [step["type"] for step in steps]


class WordCache:
    """Tokenizes each distinct word once, for tokenizers that treat every word on its own.

    Args:
        exact: The method of a tokenizer for which `fit` holds.
    """

    def __init__(self, exact: Method) -> None:
        self._exact = exact
        self._clear()

    @classmethod
    def fit(cls, backend: Any, exact: Method | None = None) -> WordCache | None:
        """For this tokenizer, if no token crosses a space; `exact` is by default the tokenizer itself."""
        description = json.loads(backend.to_str())
        normalizers, pre_tokenizers = (_types(description[part]) for part in ("normalizer", "pre_tokenizer"))
        is_by_word = (
            {*normalizers} <= {"BertNormalizer", "NFC"}
            and pre_tokenizers in (["BertPreTokenizer"], ["BertPreTokenizer", "Split"])
            and description["model"]["type"] == "WordPiece"
        )
        crosses_spaces = any(
            token["lstrip"] or token["rstrip"] or len(token["content"].split()) != 1
            for token in description["added_tokens"]
            if not token["content"].startswith(ordinary_text.HIDDEN)
        )
        return cls(exact or ExactTokenizer(backend)) if is_by_word and not crosses_spaces else None

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Method`."""
        # Characters that every tokenizer treats as a space. Other Unicode spaces stay inside a word, which is correct.
        split = [text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ") for text in texts]
        self._add(list(set().union(*split).difference(self._numbers)))
        counts = np.array([len(words) for words in split], np.int64)
        words = np.empty(int(counts.sum()), np.int64)
        end = 0
        for one in split:
            start, end = end, end + len(one)
            words[start:end] = np.fromiter(map(self._numbers.__getitem__, one), np.int64, len(one))
        lengths = self._lengths[words]
        ends = np.cumsum(lengths)
        shift = self._starts[words] - (ends - lengths)  # from a word's tokens in the result to those in the cache
        ids = self._ids[np.arange(int(lengths.sum())) + np.repeat(shift, lengths)]
        if len(self._numbers) > MAX_WORDS or self._chars > MAX_CHARS:
            self._clear()
        return ids, np.diff(np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])])

    def __str__(self) -> str:
        return "the word cache"

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._chars = 0  # of all words together
        self._ids: np.ndarray = np.empty(0, np.int32)  # of all words, one after the other
        self._starts: np.ndarray = np.empty(0, np.int64)
        self._lengths: np.ndarray = np.empty(0, np.int64)

    def _add(self, words: list[str]) -> None:
        if words:
            self._chars += sum(map(len, words))
            ids, lengths = self._exact(words)
            self._numbers.update(zip(words, range(len(self._numbers), len(self._numbers) + len(words)), strict=True))
            self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
            self._ids, self._lengths = np.concatenate([self._ids, ids]), np.concatenate([self._lengths, lengths])
