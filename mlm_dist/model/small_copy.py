"""A small model with the architecture of a large one: what an architecture can do is tried on it in a moment."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import nn

from mlm_dist.errors import ModelError
from mlm_dist.model.configuration import changed
from mlm_dist.model.layers import encoder_layers

# Attributes that tell layers of one kind apart.
_INDICES = ("layer_idx", "layer_id", "layer_index", "layer_number", "seed")
_IDS = {"pad": 0, "unk": 1, "cls": 2, "bos": 2, "sep": 3, "eos": 3, "mask": 4}
WIDTH = 256  # of a narrow copy, at least two heads
VOCABULARY = 128  # tokens, special ones first


def small_configuration(config: Any) -> Any:
    """A copy of a transformers configuration with few tokens and few layers, which still has each kind of its layers.

    All other fields are as they were, so that the model computes in the same way.

    Args:
        config: The configuration of a masked-language model.

    Raises:
        Exception: Whatever the library raises for a configuration that it cannot build.
    """
    small = copy.deepcopy(config)
    # A wrapped model has another attention, and one that was loaded has a type, a class and a name.
    small._attn_implementation_internal = small.dtype = small.architectures = None
    small.name_or_path = ""
    _take_vocabulary(small)
    layers = encoder_layers(on_meta(small))
    kinds = [_kind(layer) for layer in layers]
    needed = max(2, *(kinds.index(kind) + 1 for kind in kinds)) if kinds else 0
    if 0 < needed < len(layers):
        try:
            shorter = changed(small, {"num_hidden_layers": needed})
            if {_kind(layer) for layer in encoder_layers(on_meta(shorter))} == set(kinds):
                return shorter
        except Exception:  # the number of layers follows from other fields: all of them stay
            return small
    return small


def narrow_configuration(small: Any) -> Any | None:
    """A small configuration with fewer heads of the same size; None if it is narrow, or cannot be made narrower.

    Args:
        small: What `small_configuration` has returned.
    """
    values = {name: getattr(small, name, None) for name in ("hidden_size", "num_attention_heads", "intermediate_size")}
    hidden, heads, inside = values.values()
    if not (isinstance(hidden, int) and isinstance(heads, int) and isinstance(inside, int)):
        return None
    per_group = heads // (getattr(small, "num_key_value_heads", None) or heads)
    size = hidden // heads
    fewer = max(2, WIDTH // size // per_group) * per_group
    if hidden <= WIDTH or hidden % heads or fewer >= heads:
        return None
    fields = {"hidden_size": fewer * size, "num_attention_heads": fewer, "intermediate_size": 2 * fewer * size}
    if getattr(small, "num_key_value_heads", None):
        fields["num_key_value_heads"] = fewer // per_group
    if getattr(small, "embedding_size", None) == hidden:
        fields["embedding_size"] = fewer * size
    try:
        narrow = changed(small, fields)
        on_meta(narrow)
    except Exception:  # its width is bound to other fields
        return None
    return narrow


def small_model(small: Any) -> Any:
    """A model of a small configuration whose weights are all random, in fp32 on the CPU; the same every time.

    Fresh weights hide much: what begins at zero, such as a gate or a table of positions, has no effect yet.

    Raises:
        ModelError: It does not fit the free memory of this machine.
    """
    import psutil
    from transformers import AutoModelForMaskedLM

    needed = sum(8 * parameter.numel() for parameter in on_meta(small).parameters())  # with gradients
    if needed > (free := psutil.virtual_memory().available):
        raise ModelError(
            f"model.overrides: a layer of this {small.model_type} model and its embeddings need {needed / 2**30:,.0f} "
            f"GiB, but {free / 2**30:,.0f} GiB of memory are free; make it smaller"
        )

    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(copy.deepcopy(small), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.normal_(std=max(1, parameter.numel() // max(1, len(parameter))) ** -0.5)
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def on_meta(config: Any) -> Any:
    """The masked-language model of a configuration, without memory for its weights."""
    from transformers import AutoModelForMaskedLM

    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(copy.deepcopy(config))


def _take_vocabulary(config: Any) -> None:
    """Fewer tokens, and ids of special tokens among them."""
    fields = dict(vars(config))
    for name, value in fields.items():
        if name.endswith("vocab_size") and isinstance(value, int):
            setattr(config, name, min(value, VOCABULARY))
    if config.vocab_size is None:
        config.vocab_size = VOCABULARY
    others = itertools.count(len(_IDS))
    for name, value in fields.items():
        role = name.removesuffix("_token_id")
        if role in _IDS and (value is None or isinstance(value, int)):
            setattr(config, name, _IDS[role])
        elif role != name and isinstance(value, int):  # of images, for example
            setattr(config, name, next(others))


def _kind(layer: nn.Module) -> tuple[object, ...]:
    """What tells one kind of layer from another: its modules, their settings, and the shapes of their weights."""
    parts: list[object] = []
    for name, module in layer.named_modules():
        settings = [
            (key, value)
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str) and not key.startswith("_") and key not in _INDICES
        ]
        parts.append((name, type(module).__name__, tuple(sorted(settings, key=str))))
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
    return (*parts, shapes)
