"""The transformers configuration of a model, fitted to its tokenizer and the length of its rows."""

from __future__ import annotations

import os
from typing import Any

from mlm_dist.config import ModelConfig, TokenizerConfig
from mlm_dist.errors import ModelError, reason
from mlm_dist.model import configuration, growable, positions, saved_config, vocabulary
from mlm_dist.model.shapes import SHAPES, Shape
from mlm_dist.model.suitability import require_supported, suitability
from mlm_dist.pretrained import locate
from mlm_dist.spec import RowMode

UNKNOWN_VOCAB_SIZE = 1024  # of configurations without one, until there is a tokenizer


def is_architecture(name: str) -> bool:
    """Whether a name means an architecture with random weights instead of a checkpoint."""
    from transformers import CONFIG_MAPPING

    return not os.path.isdir(os.path.expanduser(name)) and (name in SHAPES or name in CONFIG_MAPPING)


def starts_from_scratch(model: ModelConfig) -> bool:
    """Whether training starts from random weights alone."""
    return model.init_from is None and (model.from_scratch or is_architecture(model.name_or_path))


def takes_tokenizer(model: ModelConfig) -> bool:
    """Whether the configuration gets the tokenizer's vocabulary and special ids, instead of keeping a checkpoint's."""
    return starts_from_scratch(model) or model.init_from is not None


def tokenizer_source(model: ModelConfig, tokenizer: TokenizerConfig) -> tuple[str, str] | None:
    """The folder or Hub name of the tokenizer and the config key that gives it; None if one is to be trained."""
    if tokenizer.path is not None:
        return tokenizer.path, "tokenizer.path"
    if tokenizer.train_vocab_size is not None:
        return None
    if model.init_from is not None:
        return model.init_from, "model.init_from"
    if is_architecture(model.name_or_path):
        return None
    return model.name_or_path, "model.name_or_path"


def default_row_mode(model: ModelConfig, max_length: int) -> RowMode:
    """The value of rows.mode if the config has none: pack if a trial shows that chunks stay apart, else chunk.

    Args:
        model: The model.
        max_length: Tokens per row.

    Raises:
        ModelError: The model does not exist, its configuration lacks a field of model.overrides, or it cannot be
            trained here.
    """
    config, overrides = _load(model)
    overrides.pop("vocab_size", None)
    _require_masked_lm(model.name_or_path, config)
    changed = configuration.changed(config, overrides)
    return "chunk" if suitability(changed, max_length).style is None else "pack"


def architecture(
    model: ModelConfig,
    max_length: int,
    tokenizer: Any | None = None,
    num_domain_tokens: int = 0,
    tokenizer_name: str = "",
    add_domain_tokens: int = 0,
    train_vocab_size: int | None = None,
) -> Any:
    """The transformers configuration of a model, checked against the tokenizer and the rows; builds no weights.

    It is constructed from the architecture or the checkpoint, model.overrides and the tokenizer's ids. If rows are
    longer than the model's positions, it gets as many positions as they need; `added_positions` says how.

    Args:
        model: The model.
        max_length: Tokens per row.
        tokenizer: The tokenizer of the rows; None if it is not trained yet, which skips its checks.
        num_domain_tokens: Tokens that were added to the tokenizer for the documents, its last ones. The vocabulary of a
            checkpoint grows by as many, unless it has rows for them.
        tokenizer_name: Where the tokenizer comes from; by default the model.
        add_domain_tokens: tokenizer.add_domain_tokens, for messages.
        train_vocab_size: Tokens of a tokenizer that is not trained yet.

    Raises:
        ModelError: The model does not exist, is not a masked-language model, lacks a field of model.overrides, has
            another vocabulary than the tokenizer, or has too few positions and they cannot be interpolated.
    """
    config, overrides = _load(model)
    _require_masked_lm(model.name_or_path, config)
    growable.require_no_weights(model, is_architecture(model.name_or_path))
    is_fitted = takes_tokenizer(model)
    trained = None if is_fitted else positions.max_positions(config)
    vocab_size = overrides.pop("vocab_size", None)
    if tokenizer is not None:
        vocabulary.require_room(vocab_size, len(tokenizer))
    if tokenizer is None and train_vocab_size is not None and not is_fitted and vocab_size is None:
        raise ModelError(
            f"tokenizer.train_vocab_size: {model.name_or_path} was trained with its own tokenizer; start a model for "
            f"a new one with --model.init_from {model.name_or_path}, or from random weights with "
            "--model.from_scratch true"
        )
    if is_fitted:
        known = train_vocab_size or config.vocab_size or UNKNOWN_VOCAB_SIZE
        size = vocab_size or (known if tokenizer is None else len(tokenizer))
        fields = vocabulary.fields(config, tokenizer, size) | overrides
    else:
        size = vocab_size or _num_rows(
            model, config.vocab_size, tokenizer, num_domain_tokens, tokenizer_name, add_domain_tokens
        )
        if tokenizer is not None and tokenizer_name:
            vocabulary.require_own(
                model.name_or_path, tokenizer, tokenizer_name, num_domain_tokens, is_forced=vocab_size is not None
            )
        grown = {} if size == config.vocab_size else {"vocab_size": size}
        fields = grown | overrides
    config = configuration.changed(config, fields)
    if overrides:
        _require_buildable(config)
    _fit_positions(model, config, max_length, trained)
    if model.init_from is not None:
        smaller = locate(model.init_from, growable.KEY)
        with smaller.named():
            growable.require_growable(saved_config.read(smaller), config, model.init_from)
    return config


def added_positions(model: ModelConfig, max_length: int) -> str | None:
    """How a model gets more positions than it has, because rows are longer; None if it has enough.

    Args:
        model: The model.
        max_length: Tokens per row.
    """
    config, overrides = _load(model)
    trained = None if takes_tokenizer(model) else positions.max_positions(config)
    overrides.pop("vocab_size", None)
    if takes_tokenizer(model):
        overrides = vocabulary.fields(config, None, config.vocab_size or UNKNOWN_VOCAB_SIZE) | overrides
    return _fit_positions(model, configuration.changed(config, overrides), max_length, trained)


def _num_rows(
    model: ModelConfig,
    num_rows: int,
    tokenizer: Any | None,
    num_domain_tokens: int,
    tokenizer_name: str,
    add_domain_tokens: int,
) -> int:
    """Rows of a checkpoint's embeddings for a tokenizer."""
    if tokenizer is None:
        return num_rows
    name = model.name_or_path
    return vocabulary.rows(num_rows, len(tokenizer), num_domain_tokens, name, tokenizer_name or name, add_domain_tokens)


def _load(model: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The transformers configuration that a name means, and the fields to override in it."""
    from transformers import CONFIG_MAPPING

    name = model.name_or_path
    if is_architecture(name):
        if model.revision is not None:
            raise ModelError(f"model.revision: {name} is an architecture without weights; remove model.revision")
        shape = SHAPES.get(name, Shape(name, {}))
        return CONFIG_MAPPING[shape.model_type](), shape.fields | dict(model.overrides)
    pretrained = locate(name, "model.name_or_path", model.revision)
    return saved_config.read(pretrained), dict(model.overrides)


def _require_masked_lm(name: str, config: Any) -> None:
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"model.name_or_path: {name} is a {config.model_type} model, which has no masked-language-model head; "
            "choose one such as bert, roberta or modernbert"
        )
    require_supported(config)


def _require_buildable(config: Any) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    try:
        with torch.device("meta"):
            AutoModelForMaskedLM.from_config(config)
    except (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError, AssertionError, AttributeError) as error:
        raise ModelError(f"model.overrides: {config.model_type} cannot be built with them ({reason(error)})") from None


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
