"""Whether a model can grow from another one, by their configurations alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlm_dist.config import ModelConfig
from mlm_dist.errors import ConfigError, ModelError
from mlm_dist.model.configuration import text_config
from mlm_dist.model.tiling import Heads

# Architectures that the tests double in width without a change of their logits.
WIDENED = frozenset(
    {
        *("albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert"),
        *("electra", "ernie", "esm", "esmc", "eurobert", "flaubert", "gte", "jina_embeddings_v3", "layoutlm"),
        *("longformer", "megatron-bert", "modernbert", "mpnet", "mra", "nomic_bert", "nystromformer", "rembert"),
        *("roberta", "roberta-prelayernorm", "roformer", "ultrabert", "xlm", "xlm-roberta", "xlm-roberta-xl"),
        *("xmod", "yoso"),
    }
)
_WIDTHS = ("hidden_size", "intermediate_size", "hidden_dim", "embedding_size")
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.pt")


def require_no_weights(model: ModelConfig, is_architecture: bool) -> None:
    """Refuse `model.init_from` with another checkpoint in `model.name_or_path`, which has weights of its own.

    Args:
        model: The model.
        is_architecture: Whether `model.name_or_path` is an architecture.

    Raises:
        ConfigError: It is a checkpoint.
    """
    name = model.name_or_path
    if model.init_from is None or is_architecture or _same(name, model.init_from):
        return
    folder = Path(name).expanduser()
    if not folder.is_dir() or any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise ConfigError(
            f"model.init_from and model.name_or_path are both checkpoints, {model.init_from} and {name}, but a model "
            f"starts from the weights of one; name an architecture, a folder with a config.json alone, or "
            f"{model.init_from} in model.name_or_path, and give the sizes with model.overrides"
        )


def require_growable(old: Any, new: Any, name: str) -> None:
    """Refuse a configuration that cannot grow from another one.

    Args:
        old: The transformers configuration to grow from.
        new: That of the larger model.
        name: Name of the smaller model, for messages.

    Raises:
        ModelError: They have different architectures, a layer is narrower, or the heads have another width.
    """
    if old.model_type != new.model_type:
        raise ModelError(
            f"model.init_from: {name} is a {old.model_type} model, but model.name_or_path means {new.model_type}; name "
            f"{old.model_type}, or {name} for its configuration"
        )
    before, after = text_config(old), text_config(new)
    pairs = {field: (_size(before, field), _size(after, field)) for field in _WIDTHS}
    sizes = {field: (one, other) for field, (one, other) in pairs.items() if one is not None and other is not None}
    for field, (one, other) in sizes.items():
        if other < one:
            raise ModelError(
                f"model.init_from: the {field} of {name} is {one}, that of the model only {other}; raise it with "
                f"--model.overrides.{field}, or name {name} in model.name_or_path for its configuration"
            )
    if any(one != other for one, other in sizes.values()) and old.model_type not in WIDENED:
        raise ModelError(
            f"model.init_from: a {old.model_type} model can get more layers or another tokenizer than {name}, but not "
            f"wider layers; keep its widths, for example with {name} in model.name_or_path"
        )
    heads(before, after, name)


def heads(old: Any, new: Any, name: str) -> Heads:
    """The heads of both models.

    Raises:
        ModelError: They have another width, or share keys and values in another number.
    """
    (size, count, shared), (new_size, new_count, new_shared) = _heads(old), _heads(new)
    if size != new_size:
        raise ModelError(
            f"model.init_from: the attention heads of {name} have a width of {size}, those of the model {new_size}; "
            f"set --model.overrides.num_attention_heads {new.hidden_size // size}"
        )
    if shared != new_shared:
        raise ModelError(
            f"model.init_from: {shared} heads of {name} share keys and values, in the model {new_shared}; set "
            f"--model.overrides.num_key_value_heads {new_count // shared}"
        )
    return Heads(size, count, new_count, shared)


def _heads(config: Any) -> tuple[int, int, int]:
    """Width of a head, heads, and heads that share their keys and values."""
    count = _size(config, "num_attention_heads")
    if count is None:
        return 1, 1, 1
    size = _size(config, "head_dim") or int(config.hidden_size) // count
    return size, count, count // (_size(config, "num_key_value_heads") or count)


def _size(config: Any, field: str) -> int | None:
    value = getattr(config, field, None)
    return value if isinstance(value, int) else None


def _same(one: str, other: str) -> bool:
    paths = [os.path.expanduser(name) for name in (one, other)]
    return one == other or (all(map(os.path.isdir, paths)) and os.path.samefile(*paths))
