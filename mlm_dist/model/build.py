"""Which model a config means, whether it fits its tokenizer and rows, and building it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mlm_dist.config import Config, ModelConfig
from mlm_dist.errors import ModelError, reason
from mlm_dist.hub import require
from mlm_dist.model import packed_attention, positions
from mlm_dist.model.new_tokens import start_from_pieces

# Small BERT shapes by the names of Turc et al., 2019, https://arxiv.org/abs/1908.08962; dropout off, because models of
# this size learn from little text without memorising it.
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


def is_architecture(name: str) -> bool:
    """Whether a name means an architecture with random weights rather than a checkpoint."""
    from transformers import CONFIG_MAPPING

    return not os.path.isdir(os.path.expanduser(name)) and (name in SHAPES or name in CONFIG_MAPPING)


def starts_from_scratch(config: ModelConfig) -> bool:
    """Whether training begins with random weights."""
    return config.from_scratch or is_architecture(config.name_or_path)


def tokenizer_of(config: Config) -> tuple[str, str] | None:
    """The tokenizer to load and the config key that named it; None where one is to be trained."""
    if config.tokenizer.path is not None:
        return config.tokenizer.path, "tokenizer.path"
    if config.tokenizer.train_vocab_size is not None or is_architecture(config.model.name_or_path):
        return None
    return config.model.name_or_path, "model.name_or_path"


def rows_mode(config: Config) -> Literal["truncate", "chunk", "pack"]:
    """How documents become rows, which a config may leave open; builds no weights.

    Raises:
        ModelError: It is left open, and there is no such model, or the model lacks a field of model.overrides.
    """
    if config.rows.mode is not None:
        return config.rows.mode
    found, overrides = _named(config.model)
    overrides.pop("vocab_size", None)
    _override(found, overrides)
    return "pack" if packed_attention.is_known_to_fit(found) else "chunk"


def architecture(
    config: Config,
    tokenizer: Any | None,
    num_domain_tokens: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """The model's transformers configuration, checked against the tokenizer and the rows; builds no weights.

    Where rows are longer than the model has positions for, it gets as many as they need, see `positions`.

    Args:
        config: The run.
        tokenizer: The rows' tokenizer; None while it is still to be trained, which leaves its checks for later.
        num_domain_tokens: How many of its tokens, the last ones, were added to it for these documents. The vocabulary
            of a checkpoint grows by as many.
        say: Told of positions that are more than the model had.

    Raises:
        ModelError: There is no such model, it is no masked-language model, it lacks a field of model.overrides, its
            vocabulary is not the tokenizer's, or its positions cannot be made to suffice for rows of
            rows.max_length tokens.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM

    found, overrides = _named(config.model)
    if type(found) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"model.name_or_path: {config.model.name_or_path} is a {found.model_type} model, which has no "
            "masked-language-model head; choose one such as bert, roberta or modernbert"
        )
    trained = None if starts_from_scratch(config.model) else positions.max_positions(found)
    vocab_size = overrides.pop("vocab_size", None)
    _override(found, overrides)
    if tokenizer is not None:
        _fit_tokenizer(config, found, tokenizer, vocab_size, num_domain_tokens)
    elif found.vocab_size is None:  # left open by some, such as esm's; any size will do until there is a tokenizer
        found.vocab_size = vocab_size or 1024
    if overrides:
        import torch

        try:
            with torch.device("meta"):
                AutoModelForMaskedLM.from_config(found)
        except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise ModelError(
                f"model.overrides: {found.model_type} cannot be built with them ({reason(error)})"
            ) from None
    _fit_positions(config, found, trained, say)
    return found


def _named(config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The transformers configuration that a name stands for, and what is to be overridden in it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    name = config.name_or_path
    if is_architecture(name):
        return CONFIG_MAPPING["bert" if name in SHAPES else name](), SHAPES.get(name, {}) | dict(config.overrides)
    path = require(name, "model.name_or_path")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False), dict(config.overrides)
    except Exception as error:  # the library raises a dozen kinds for: no such name, no network, a broken file
        raise ModelError(
            f"model.name_or_path: {name} is neither an architecture nor a checkpoint that can be loaded "
            f"({reason(error)})"
        ) from None


def _override(found: Any, overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if not hasattr(found, key):
            raise ModelError(f"model.overrides.{key}: a {found.model_type} configuration has no such field")
        try:
            setattr(found, key, value)
        except Exception as error:  # the library checks types in its own way
            raise ModelError(f"model.overrides.{key}: {reason(error.__cause__ or error)}") from None


def build(config: Config, architecture: Any, domain_tokens: Mapping[int, Sequence[int]] | None = None) -> Any:
    """A transformers masked-language model in fp32 on the CPU; from scratch its weights depend on the seed alone.

    With `model.freeze_embeddings` the table of token embeddings, and an output matrix that is tied to it, asks for no
    gradients.

    Args:
        config: The run.
        architecture: The model's configuration, see `architecture`.
        domain_tokens: {id: ids of its pieces} of tokens that start as the mean of their pieces where a checkpoint is
            loaded.

    Raises:
        ModelError: The checkpoint's weights cannot be loaded.
    """
    import torch
    from transformers import AutoModelForMaskedLM, logging

    torch.manual_seed(config.seed)
    if starts_from_scratch(config.model):
        model = AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32)
    else:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        own, as_saved = _checkpoint_configuration(config), copy.deepcopy(architecture)
        as_saved.vocab_size = own.vocab_size
        is_stretched = positions.is_stretched(own, architecture)
        if is_stretched:
            as_saved.max_position_embeddings = own.max_position_embeddings
        try:
            model = AutoModelForMaskedLM.from_pretrained(
                os.path.expanduser(config.model.name_or_path),
                config=as_saved,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except Exception as error:  # missing or broken weights, pickles, shapes that differ
            raise ModelError(
                f"model.name_or_path: the weights of {config.model.name_or_path} cannot be loaded ({reason(error)})"
            ) from None
        finally:
            logging.set_verbosity(verbosity)
        if is_stretched:
            model = positions.stretched(model, architecture.max_position_embeddings)
        if architecture.vocab_size != model.config.vocab_size:
            model.resize_token_embeddings(architecture.vocab_size, mean_resizing=not domain_tokens)
        start_from_pieces(model, domain_tokens or {})
    model.tie_weights()
    if config.model.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    return model


def _checkpoint_configuration(config: Config) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(os.path.expanduser(config.model.name_or_path), trust_remote_code=False)


def _is_padded(vocab_size: int, num_tokens: int) -> bool:
    """Whether a vocabulary is the tokenizer's, rounded up for the sake of matrix products, as nomic-bert's is."""
    return any(vocab_size == -(-num_tokens // multiple) * multiple for multiple in (64, 128))


def _fit_tokenizer(config: Config, found: Any, tokenizer: Any, vocab_size: int | None, num_domain_tokens: int) -> None:
    """Give a model from scratch the tokenizer's vocabulary; refuse a checkpoint with another one."""
    name, size = config.model.name_or_path, len(tokenizer)
    if vocab_size is not None and vocab_size < size:
        raise ModelError(f"model.overrides.vocab_size: {vocab_size} is less than the {size} tokens of the tokenizer")
    if starts_from_scratch(config.model):
        found.vocab_size = vocab_size or size
        for field in ("pad", "bos", "eos", "cls", "sep", "mask"):
            if hasattr(found, f"{field}_token_id"):
                setattr(found, f"{field}_token_id", getattr(tokenizer, f"{field}_token_id"))
    elif vocab_size is not None:
        found.vocab_size = vocab_size
    elif found.vocab_size == size - num_domain_tokens or _is_padded(found.vocab_size, size - num_domain_tokens):
        found.vocab_size = max(size, found.vocab_size)
    else:
        where = config.tokenizer.path or ("the corpus" if config.tokenizer.train_vocab_size else name)
        room = size - num_domain_tokens + (config.tokenizer.add_domain_tokens or 0)
        raise ModelError(
            f"tokenizer.path: the tokenizer of {where} has {size - num_domain_tokens} tokens, but the vocabulary of "
            f"{name} has {found.vocab_size}; name the model's own tokenizer, or resize its embeddings with "
            f"--model.overrides.vocab_size {room}"
        )


def _fit_positions(config: Config, found: Any, trained: int | None, say: Callable[[str], None]) -> None:
    """Give a model positions for all tokens of a row; a checkpoint was trained with so many."""
    name, length, overrides = config.model.name_or_path, config.rows.max_length, config.model.overrides
    room = positions.max_positions(found)
    if room is None:
        return
    if length > room:
        needed = length + positions.first_position(found)
        if "max_position_embeddings" in overrides:
            raise ModelError(
                f"model.overrides.max_position_embeddings: {overrides['max_position_embeddings']} is too small for "
                f"rows.max_length {length}; raise it to {needed} or leave it out"
            )
        if trained is None:
            say(f"rows.max_length: {name} gets {length:,} positions instead of {room:,}, learned from scratch")
        found.max_position_embeddings, room = needed, length
    if trained is None or room <= trained or "rope_parameters" in overrides:
        return
    how = positions.interpolate(found, trained)
    if how is None:
        raise ModelError(
            f"rows.max_length: {length} is more than the {trained} positions of {name}, which cannot be interpolated; "
            f"lower it to {trained} or choose a model with more positions"
        )
    say(f"rows.max_length: the {trained:,} positions of {name} become {room:,}, {how}")
