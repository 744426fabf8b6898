"""Tokenizers: loading one, what is special about it, and turning many texts into one flat array of ids."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.errors import ModelError, reason
from mlm_dist.names import require

DEFAULT_VOCAB_SIZE = 4096
FIRST_SAMPLE = 16  # texts of the first call that are encoded twice, where the fast extra is used; then one a call
_STRIDE = 2654435761  # an odd number, large and without pattern: it leads to another place each time


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own.

    Args:
        prefix: Ids before the tokens of a window, such as [CLS].
        suffix: Ids after them, such as [SEP].
        pad: The padding token.
        mask: The mask token.
        all: Every special id, added control tokens included.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    mask: int
    all: tuple[int, ...]


def load(path: str, key: str = "tokenizer.path") -> Any:
    """A fast tokenizer that can mask, from a folder or the hub, with truncation and padding switched off.

    Raises:
        ModelError: There is none, it is no fast one, or it has no mask token; the message names `key`.
    """
    from transformers import AutoTokenizer

    found = require(path, key)
    try:
        tokenizer = AutoTokenizer.from_pretrained(found, trust_remote_code=False)
    except Exception as error:  # the library raises a dozen kinds for: no such name, no network, broken files
        raise ModelError(f"{key}: no tokenizer can be loaded from {path} ({reason(error)})") from None
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"{key}: the tokenizer of {path} has no mask token, so its model was not trained to fill masks; "
            "choose a masked-language model such as bert, roberta or modernbert"
        )
    if not tokenizer.is_fast:
        raise ModelError(f"{key}: {path} has no fast tokenizer (tokenizer.json); convert it or choose another")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{key}: the tokenizer of {path} has no padding token; add one to its configuration")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def digest(tokenizer: Any) -> str:
    """Equal for tokenizers that split texts alike, wherever they came from."""
    parts = [
        tokenizer.backend_tokenizer.to_str(),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Read a tokenizer's special ids; prefix and suffix are found by encoding a token with them and without."""
    backend = tokenizer.backend_tokenizer
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
    start = starts[0] if starts else 0
    ids = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return SpecialTokens(
        prefix=tuple(full[:start]),
        suffix=tuple(full[start + len(bare) :]),
        pad=tokenizer.pad_token_id,
        mask=tokenizer.mask_token_id,
        all=tuple(sorted(ids)),
    )


class Encoder:
    """Texts to ids. Uses nanotoken (the `fast` extra) where it is installed, knows the tokenizer, and agrees.

    Its ids are compared with those of the tokenizer itself, on many texts of the first call and one of every other; at
    the first difference it is put aside with a warning and the call is done again without it.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.vocab_size = len(tokenizer)
        self.fast: Any | None = None
        self._calls = 0
        if importlib.util.find_spec("nanotoken") is not None:
            import nanotoken

            with contextlib.suppress(nanotoken.UnsupportedTokenizerError):  # no WordPiece, or none it knows
                self.fast = nanotoken.Tokenizer.from_json(self._backend.to_str())

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of all texts, without special tokens.

        Returns:
            Ids of shape [num_tokens], int32, text after text; and lengths of shape [num_texts], int64.
        """
        if self.fast is not None and texts:
            found = self.fast.encode_batch(texts, add_special_tokens=False)
            sample = self._sample(len(texts))
            ids, lengths = self._encode([texts[i] for i in sample])
            same = np.array_equal(np.diff(found.offsets)[sample], lengths)
            if same and np.array_equal(np.concatenate([found[i] for i in sample]), ids):
                return found.ids.astype(np.int32), np.diff(found.offsets).astype(np.int64)
            self.fast = None
            warnings.warn(
                "nanotoken splits some text differently than the tokenizer; going on without it", stacklevel=2
            )
        return self._encode(texts)

    def _sample(self, count: int) -> list[int]:
        """Which of `count` texts to compare: many in the first call, then one in each, every time another."""
        self._calls += 1
        if self._calls == 1:
            return list(range(0, count, max(1, count // FIRST_SAMPLE)))
        return [self._calls * _STRIDE % count]

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        lengths = np.array([len(one) for one in ids], np.int64)
        return np.concatenate(ids) if ids else np.empty(0, np.int32), lengths


def save(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer so that `AutoTokenizer.from_pretrained(folder)` reads it."""
    tokenizer.save_pretrained(str(folder))
