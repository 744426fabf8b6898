"""The transformers configuration of a model, fitted to its tokenizer and the length of its rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlm_dist.config import ModelConfig, TokenizerConfig
from mlm_dist.errors import ModelError, reason
from mlm_dist.hub import require
from mlm_dist.model import packed_attention, positions
from mlm_dist.spec import RowMode

# Small BERT shapes by the names of Turc et al., 2019, https://arxiv.org/abs/1908.08962; without dropout, because models
# of this size do not memorise their text.
SHAPES = {
    name: {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    for name, num_layers, hidden_size in (("bert-tiny", 2, 128), ("bert-mini", 4, 256), ("bert-small", 4, 512))
}
UNKNOWN_VOCAB_SIZE = 1024  # of configurations without one, until there is a tokenizer


def is_architecture(name: str) -> bool:
    """Whether a name means an architecture with random weights instead of a checkpoint."""
    from transformers import CONFIG_MAPPING

    return not os.path.isdir(os.path.expanduser(name)) and (name in SHAPES or name in CONFIG_MAPPING)


def starts_from_scratch(model: ModelConfig) -> bool:
    """Whether training starts from random weights."""
    return model.from_scratch or is_architecture(model.name_or_path)


def tokenizer_source(model: ModelConfig, tokenizer: TokenizerConfig) -> tuple[str, str] | None:
    """The folder or Hub name of the tokenizer and the config key that gives it; None if one is to be trained."""
    if tokenizer.path is not None:
        return tokenizer.path, "tokenizer.path"
    if tokenizer.train_vocab_size is not None or is_architecture(model.name_or_path):
        return None
    return model.name_or_path, "model.name_or_path"


def default_row_mode(model: ModelConfig) -> RowMode:
    """The value of rows.mode if the config has none: pack if the architecture is known to support it, else chunk.

    Raises:
        ModelError: The model does not exist, or its configuration lacks a field of model.overrides.
    """
    config, overrides = _load(model)
    overrides.pop("vocab_size", None)
    _override(config, overrides)
    return "pack" if packed_attention.supports_packing(config) else "chunk"


def architecture(
    model: ModelConfig,
    max_length: int,
    tokenizer: Any | None = None,
    num_domain_tokens: int = 0,
    tokenizer_name: str = "",
    add_domain_tokens: int = 0,
) -> Any:
    """The transformers configuration of a model, checked against the tokenizer and the rows; builds no weights.

    If rows are longer than the model's positions, it gets as many positions as they need; `added_positions` says how.

    Args:
        model: The model.
        max_length: Tokens per row.
        tokenizer: The tokenizer of the rows; None if it is not trained yet, which skips its checks.
        num_domain_tokens: Tokens that were added to the tokenizer for the documents, its last ones. The vocabulary of a
            checkpoint grows by as many.
        tokenizer_name: Where the tokenizer comes from, for messages; by default the model.
        add_domain_tokens: tokenizer.add_domain_tokens, for messages.

    Raises:
        ModelError: The model does not exist, is not a masked-language model, lacks a field of model.overrides, has
            another vocabulary than the tokenizer, or has too few positions and they cannot be interpolated.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    config, overrides = _load(model)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"model.name_or_path: {model.name_or_path} is a {config.model_type} model, which has no "
            "masked-language-model head; choose one such as bert, roberta or modernbert"
        )
    trained = None if starts_from_scratch(model) else positions.max_positions(config)
    vocab_size = overrides.pop("vocab_size", None)
    _override(config, overrides)
    if tokenizer is None:
        if config.vocab_size is None:  # as in ESM's configuration
            config.vocab_size = vocab_size or UNKNOWN_VOCAB_SIZE
    elif starts_from_scratch(model):
        _require_room(vocab_size, len(tokenizer))
        _take_vocabulary(config, tokenizer, vocab_size)
    else:
        _require_room(vocab_size, len(tokenizer))
        size = vocab_size or _grown_vocabulary(config.vocab_size, len(tokenizer), num_domain_tokens)
        if size is None:
            num_named = len(tokenizer) - num_domain_tokens
            raise ModelError(
                f"tokenizer.path: the tokenizer of {tokenizer_name or model.name_or_path} has {num_named} tokens, but "
                f"the vocabulary of {model.name_or_path} has {config.vocab_size}; use the model's own tokenizer, or "
                f"resize its embeddings with --model.overrides.vocab_size {num_named + add_domain_tokens}"
            )
        config.vocab_size = size
    if overrides:
        _require_buildable(config)
    _fit_positions(model, config, max_length, trained)
    return config


def added_positions(model: ModelConfig, max_length: int) -> str | None:
    """How a model gets more positions than it has, because rows are longer; None if it has enough.

    Args:
        model: The model.
        max_length: Tokens per row.
    """
    config, overrides = _load(model)
    trained = None if starts_from_scratch(model) else positions.max_positions(config)
    overrides.pop("vocab_size", None)
    _override(config, overrides)
    return _fit_positions(model, config, max_length, trained)


def _load(model: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The transformers configuration that a name means, and the fields to override in it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    name = model.name_or_path
    if is_architecture(name):
        return CONFIG_MAPPING["bert" if name in SHAPES else name](), SHAPES.get(name, {}) | dict(model.overrides)
    path = require(name, "model.name_or_path")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False), dict(model.overrides)
    except Exception as error:  # the library raises many kinds: the name is unknown, no network, a broken file
        raise ModelError(
            f"model.name_or_path: {name} is neither an architecture nor a checkpoint that can be loaded "
            f"({reason(error)})"
        ) from None


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if not hasattr(config, key):
            raise ModelError(f"model.overrides.{key}: a {config.model_type} configuration has no such field")
        try:
            setattr(config, key, value)
        except Exception as error:  # transformers checks types with errors of its own
            raise ModelError(f"model.overrides.{key}: {reason(error.__cause__ or error)}") from None


def _require_buildable(config: Any) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    try:
        with torch.device("meta"):
            AutoModelForMaskedLM.from_config(config)
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"model.overrides: {config.model_type} cannot be built with them ({reason(error)})") from None


def _require_room(vocab_size: int | None, num_tokens: int) -> None:
    if vocab_size is not None and vocab_size < num_tokens:
        raise ModelError(
            f"model.overrides.vocab_size: {vocab_size} is less than the {num_tokens} tokens of the tokenizer"
        )


def _take_vocabulary(config: Any, tokenizer: Any, vocab_size: int | None) -> None:
    """Give a model from scratch the tokenizer's vocabulary and special tokens."""
    config.vocab_size = vocab_size or len(tokenizer)
    for field in ("pad", "bos", "eos", "cls", "sep", "mask"):
        if hasattr(config, f"{field}_token_id"):
            setattr(config, f"{field}_token_id", getattr(tokenizer, f"{field}_token_id"))


def _grown_vocabulary(vocab_size: int, num_tokens: int, num_domain_tokens: int) -> int | None:
    """The vocabulary of a checkpoint with the domain tokens; None if it is not the tokenizer's.

    A vocabulary may be the tokenizer's rounded up to a multiple of 64 or 128, as nomic-bert's is.
    """
    before = num_tokens - num_domain_tokens
    rounded = (-(-before // multiple) * multiple for multiple in (1, 64, 128))
    return max(num_tokens, vocab_size) if vocab_size in rounded else None


def _fit_positions(model: ModelConfig, config: Any, max_length: int, trained: int | None) -> str | None:
    """Give a model positions for all tokens of a row, and say how; None if it has them.

    `trained` is the number that a checkpoint was trained with.
    """
    name, overrides = model.name_or_path, model.overrides
    room = positions.max_positions(config)
    if room is None:
        return None
    how = None
    if max_length > room:
        needed = max_length + positions.first_position(config)
        if "max_position_embeddings" in overrides:
            raise ModelError(
                f"model.overrides.max_position_embeddings: {overrides['max_position_embeddings']} is too small for "
                f"rows.max_length {max_length}; raise it to {needed} or remove it"
            )
        if trained is None:
            how = f"{name} gets {max_length:,} positions instead of {room:,}, from scratch"
        config.max_position_embeddings, room = needed, max_length
    if trained is None or room <= trained or "rope_parameters" in overrides:
        return how
    how = positions.interpolate(config, trained)
    if how is None:
        raise ModelError(
            f"rows.max_length: {max_length} is more than the {trained} positions of {name}, which cannot be "
            f"interpolated; lower it to {trained} or choose a model with more positions"
        )
    return f"the {trained:,} positions of {name} become {room:,}, {how}"
