"""Tokenizers: loading one, and what is special about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.errors import ModelError, reason
from mlm_dist.hub import require

DEFAULT_VOCAB_SIZE = 4096


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


def save(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer so that `AutoTokenizer.from_pretrained(folder)` reads it."""
    tokenizer.save_pretrained(str(folder))
