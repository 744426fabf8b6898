"""The vocabulary of a model: its rows, its special ids, and whether a tokenizer is the model's own."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from mlm_dist.errors import ModelError
from mlm_dist.model.configuration import accepts, text_config

# The ids of a tokenizer that is trained here, which are known before it is.
TRAINED = SimpleNamespace(pad_token_id=0, unk_token_id=1, cls_token_id=2, sep_token_id=3, mask_token_id=4)
# Tokens that may stand for one that the tokenizer lacks, where the class needs an id.
_INSTEAD = {"bos": ("cls",), "eos": ("sep",), "cls": ("bos",), "sep": ("eos",), "mask": ("unk",), "unk": ("pad",)}
# Ids of generation, in decoders: the token that begins or ends a text.
_GENERATION = {
    "decoder_start_token_id": ("eos", "sep", "cls"),
    "forced_eos_token_id": ("eos", "sep"),
    "forced_bos_token_id": ("bos", "cls"),
}
_ROLES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_SAME = 0.9  # fraction of equal ids from which a tokenizer is the model's own with a few tokens replaced

logger = logging.getLogger(__name__)


def fields(config: Any, tokenizer: Any | None, size: int) -> dict[str, Any]:
    """The overrides that give a configuration a tokenizer's vocabulary: `size` rows and the special ids.

    Args:
        config: A transformers configuration.
        tokenizer: The tokenizer; None if it is not trained yet.
        size: Rows of the embeddings.
    """
    text = text_config(config)
    ids = {} if text is config else _special_ids(config, tokenizer or TRAINED)
    return ids | nested(config, _special_ids(text, tokenizer or TRAINED) | {"vocab_size": size})


def nested(config: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of the text model as overrides of the whole configuration."""
    return fields if text_config(config) is config else {"text_config": fields}


def merged(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings of fields, nested ones merged; `overrides` has the last word."""
    found = dict(fields)
    for name, value in overrides.items():
        before = found.get(name)
        found[name] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return found


def require_room(vocab_size: int | None, num_tokens: int) -> None:
    """Refuse `model.overrides.vocab_size` if the tokenizer has more tokens."""
    if vocab_size is not None and vocab_size < num_tokens:
        raise ModelError(
            f"model.overrides.vocab_size: {vocab_size} is less than the {num_tokens} tokens of the tokenizer"
        )


def require_own(name: str, tokenizer: Any, tokenizer_name: str, num_domain_tokens: int, is_forced: bool) -> None:
    """Refuse a tokenizer that belongs to another model than the checkpoint.

    A token must have the id that the checkpoint's own tokenizer gives it: the embedding of an id was trained for one
    token. A tenth of the tokens may differ, as in a tokenizer whose unused entries were replaced; the log says so.

    Args:
        name: The checkpoint.
        tokenizer: The tokenizer of the rows.
        tokenizer_name: Where it comes from.
        num_domain_tokens: Tokens that were added to it.
        is_forced: Whether model.overrides.vocab_size is set, which resizes the embeddings for another tokenizer: the
            difference is logged, not refused.

    Raises:
        ModelError: Too many tokens have another id.
    """
    own = _own_vocabulary(os.path.expanduser(name))
    if own is None:
        _warn_once(
            f"tokenizer.path: {name} has no tokenizer to compare that of {tokenizer_name} with; its embeddings must "
            "have been trained for it"
        )
        return
    given = tokenizer.get_vocab()
    num_same = sum(given.get(token) == id_ for token, id_ in own.items())
    count = min(len(own), len(given) - num_domain_tokens)
    if num_same >= count:
        return
    line = f"tokenizer.path: {count - num_same:,} of {count:,} tokens have another id in the tokenizer of {name}"
    if num_same < _SAME * count and not is_forced:
        raise ModelError(
            f"{line} than in that of {tokenizer_name}; use the model's own tokenizer, or start a model for this one "
            f"with --model.init_from {name}"
        )
    _warn_once(f"{line} than in that of {tokenizer_name}; their embeddings were trained for other tokens")


def rows(
    num_rows: int, num_tokens: int, num_domain_tokens: int, name: str, tokenizer_name: str, add_domain_tokens: int
) -> int:
    """Rows of a checkpoint's embeddings with the domain tokens; more rows than tokens stay.

    Args:
        num_rows: Rows of the checkpoint.
        num_tokens: Tokens of the tokenizer, domain tokens included.
        num_domain_tokens: Domain tokens, its last ones.
        name: The checkpoint.
        tokenizer_name: Where the tokenizer comes from.
        add_domain_tokens: tokenizer.add_domain_tokens.

    Raises:
        ModelError: The checkpoint has fewer rows than the tokenizer has tokens.
    """
    num_named = num_tokens - num_domain_tokens
    if num_named > num_rows:
        raise ModelError(
            f"tokenizer.path: the tokenizer of {tokenizer_name} has {num_named} tokens, but the vocabulary of {name} "
            f"has {num_rows}; use the model's own tokenizer, or resize its embeddings with "
            f"--model.overrides.vocab_size {num_named + add_domain_tokens}"
        )
    return max(num_rows, num_tokens)


def _special_ids(config: Any, tokenizer: Any) -> dict[str, int | None]:
    """{field: id} of all special ids of a configuration; None removes one that the tokenizer does not have."""
    found = {}
    for name, default in vars(config).items():
        role = name.removesuffix("_token_id").removesuffix("_index")
        if not name.endswith("_token_id") and name not in ("mask_index", "unk_index"):
            continue
        if role in _ROLES:
            ids = [_id(tokenizer, one) for one in (role, *(_INSTEAD.get(role, ()) if default is not None else ()))]
        elif name in _GENERATION:
            ids = [_id(tokenizer, one) for one in (_GENERATION[name] if default is not None else ())]
        else:  # of images and the like
            ids = [getattr(tokenizer, name, None)]
        id_ = next((one for one in ids if one is not None), None)
        found[name] = _id(tokenizer, "pad") if id_ is None and not accepts(config, name, None) else id_
    return found


def _id(tokenizer: Any, role: str) -> int | None:
    found = getattr(tokenizer, f"{role}_token_id", None)
    return None if found is None else int(found)


@functools.cache  # a job asks again when the tokenizer of the corpus is known
def _own_vocabulary(path: str) -> dict[str, int] | None:
    """{token: id} of a checkpoint's own tokenizer; None if it has none that can be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception:  # the library raises many kinds where there are no files of a tokenizer
        return None
    found: dict[str, int] = tokenizer.get_vocab()
    return found if len(found) > len(set(tokenizer.all_special_ids)) else None  # without files, for some classes


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning(line)
