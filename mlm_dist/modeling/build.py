"""Which model a config means, whether it fits its tokenizer and rows, and building it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.config import Config, ModelConfig
from mlm_dist.errors import ModelError, reason
from mlm_dist.modeling.new_tokens import start_from_pieces
from mlm_dist.names import require

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


def architecture(config: Config, tokenizer: Any | None, num_domain_tokens: int = 0) -> Any:
    """The model's transformers configuration, checked against the tokenizer and the rows; builds no weights.

    Args:
        config: The run.
        tokenizer: The rows' tokenizer; None while it is still to be trained, which leaves its checks for later.
        num_domain_tokens: How many of its tokens, the last ones, were added to it for these documents. The vocabulary
            of a checkpoint grows by as many.

    Raises:
        ModelError: There is no such model, it is no masked-language model, it lacks a field of model.overrides, its
            vocabulary is not the tokenizer's, or it cannot hold rows of rows.max_length tokens.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM

    name = config.model.name_or_path
    overrides = dict(config.model.overrides)
    if is_architecture(name):
        found = CONFIG_MAPPING["bert" if name in SHAPES else name]()
        overrides = SHAPES.get(name, {}) | overrides
    else:
        path = require(name, "model.name_or_path")
        try:
            found = AutoConfig.from_pretrained(path, trust_remote_code=False)
        except Exception as error:  # the library raises a dozen kinds for: no such name, no network, a broken file
            raise ModelError(
                f"model.name_or_path: {name} is neither an architecture nor a checkpoint that can be loaded "
                f"({reason(error)})"
            ) from None
    if type(found) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"model.name_or_path: {name} is a {found.model_type} model, which has no masked-language-model head; "
            "choose one such as bert, roberta or modernbert"
        )
    vocab_size = overrides.pop("vocab_size", None)
    for key, value in overrides.items():
        if not hasattr(found, key):
            raise ModelError(f"model.overrides.{key}: a {found.model_type} configuration has no such field")
        try:
            setattr(found, key, value)
        except Exception as error:  # the library checks types in its own way
            raise ModelError(f"model.overrides.{key}: {reason(error.__cause__ or error)}") from None
    if tokenizer is not None:
        _fit_tokenizer(config, found, tokenizer, vocab_size, num_domain_tokens)
    room = max_positions(found)
    if room is not None and config.rows.max_length > room:
        raise ModelError(
            f"rows.max_length: {config.rows.max_length} is more than the {room} positions of {name}; lower it to "
            f"{room} or choose a model with more positions"
        )
    if overrides:
        import torch

        try:
            with torch.device("meta"):
                AutoModelForMaskedLM.from_config(found)
        except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise ModelError(
                f"model.overrides: {found.model_type} cannot be built with them ({reason(error)})"
            ) from None
    return found


def max_positions(found: Any) -> int | None:
    """Tokens a row may have, or None where positions are relative and nothing bounds them.

    Models after RoBERTa give the first token the position padding index + 1, and so hold fewer than the field says.
    """
    positions = getattr(found, "max_position_embeddings", None)
    if positions is None or positions < 0 or getattr(found, "position_embedding_type", "absolute") == "rotary":
        return None
    return int(positions) - first_position(found)


def first_position(found: Any) -> int:
    """The position id of a row's first token: 0, or the one behind the padding index in models after RoBERTa."""
    return int(found.pad_token_id) + 1 if found.model_type in _POSITIONS_AFTER_PADDING else 0


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
        wanted, architecture = architecture.vocab_size, copy.deepcopy(architecture)
        architecture.vocab_size = _checkpoint_vocab_size(config)
        try:
            model = AutoModelForMaskedLM.from_pretrained(
                os.path.expanduser(config.model.name_or_path),
                config=architecture,
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
        if wanted != model.config.vocab_size:
            model.resize_token_embeddings(wanted, mean_resizing=not domain_tokens)
        start_from_pieces(model, domain_tokens or {})
    model.tie_weights()
    if config.model.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    return model


# Position ids of these start behind the padding index, as in fairseq's RoBERTa.
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def _checkpoint_vocab_size(config: Config) -> int:
    from transformers import AutoConfig

    path = os.path.expanduser(config.model.name_or_path)
    return int(AutoConfig.from_pretrained(path, trust_remote_code=False).vocab_size)


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
        for field in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if hasattr(found, field):
                setattr(found, field, getattr(tokenizer, field))
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
