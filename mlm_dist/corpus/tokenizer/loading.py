"""Tokenizers: loading, saving, their digest and their special tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlm_dist.errors import ModelError, reason
from mlm_dist.pretrained import locate
from mlm_dist.retries import retry

DEFAULT_VOCAB_SIZE = 4096
# What a tokenizer does besides its backend.
_SETTINGS = (
    *("model_input_names", "padding_side", "truncation_side", "pad_token_type_id", "clean_up_tokenization_spaces"),
    *("split_special_tokens", "add_prefix_space", "do_lower_case", "strip_accents", "tokenize_chinese_chars"),
)


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer.

    Args:
        prefix: Ids before the tokens of a chunk, such as [CLS].
        suffix: Ids after them, such as [SEP].
        pad: The padding token.
        mask: The mask token.
        all: All special ids, added control tokens included.
        unknown: The token of text that is not in the vocabulary; None if the tokenizer splits all text.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    mask: int
    all: tuple[int, ...]
    unknown: int | None = None


def load(path: str, key: str = "tokenizer.path", revision: str | None = None) -> Any:
    """Load a fast tokenizer with a mask token, from a folder or the Hub, with truncation and padding disabled.

    Args:
        path: Folder or Hub name.
        key: The config key that holds it, for messages.
        revision: Branch, tag or commit on the Hub; None for the default branch.

    Raises:
        ModelError: There is no tokenizer, it is not a fast one, or it has no mask or padding token.
    """
    from transformers import AutoTokenizer

    pretrained = locate(path, key, revision)
    try:
        load = partial(AutoTokenizer.from_pretrained, pretrained.tokenizer, **pretrained.tokenizer_options)
        tokenizer = retry(load, f"{key}: {path}")
    except Exception as error:  # the library raises many types for a missing name, no network or damaged files
        raise ModelError(f"{key}: no tokenizer can be loaded from {path} ({reason(error)})") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what the library makes up where there are no files
        raise ModelError(f"{key}: {path} has no tokenizer files (tokenizer.json); set tokenizer.path to its tokenizer")
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
    """A hash of all that a tokenizer does, equal for tokenizers that do the same, wherever they were loaded from.

    It covers the backend, the class and every setting that changes what the tokenizer or its model gets. Limits of the
    length, templates of chats and paths are not part of it: they change no row, and the export takes them from the
    run's own tokenizer.
    """
    added = {i: token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}
    settings = {name: getattr(tokenizer, name, None) for name in _SETTINGS}
    return _sha256(rows_digest(tokenizer), class_name(tokenizer), settings, added)


def rows_digest(tokenizer: Any) -> str:
    """A hash of what the ids in rows depend on: the backend and the special tokens."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    return _sha256(backend, tokenizer.special_tokens_map)


def class_name(tokenizer: Any) -> str:
    """The class of a tokenizer, by the name that transformers 4 and 5 know."""
    name = type(tokenizer).__name__
    return "PreTrainedTokenizerFast" if name in ("TokenizersBackend", "PreTrainedTokenizerFast") else name


def _sha256(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The special tokens of a tokenizer. Prefix and suffix are found by tokenizing a letter with and without them."""
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
        unknown=tokenizer.unk_token_id,
    )


def save(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer that `AutoTokenizer.from_pretrained(folder)` reads."""
    tokenizer.save_pretrained(str(folder))
