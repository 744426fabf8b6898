"""The encoder's layers, and the depth of each parameter, for any architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from mlm_dist.errors import ModelError


def encoder_layers(model: Any) -> list[nn.Module]:
    """The encoder's layers, from the embeddings to the head; empty if the model keeps no list of layers.

    Layers that share their weights (ALBERT) are one layer. An architecture that keeps a list for each part of its
    layers (XLM) gives the attention and the feed-forward network of each layer, without the norms between them.

    Args:
        model: A transformers model with a `base_model`.
    """
    return [module for parts in _layers(model.base_model) for module in parts if not isinstance(module, nn.LayerNorm)]


@contextlib.contextmanager
def called_layers(model: Any) -> Iterator[set[str]]:
    """Inside, gathers the names of the classes of the encoder's layers that the model calls.

    SqueezeBERT runs `layer.forward`, without the hooks of a layer, which FSDP2 needs to gather its weights.

    Args:
        model: A transformers model with a `base_model`.
    """
    called: set[str] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda module, _: called.add(type(module).__name__))
        for layer in encoder_layers(model)
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def depths(model: Any) -> dict[str, int]:
    """{parameter: depth}: 0 for the embeddings, i for the i-th layer, and one more than the last for the head.

    Parameters between the embeddings and the first layer have depth 0, those behind the last layer belong to the head.
    An output matrix tied to the embeddings has depth 0.

    Args:
        model: A transformers model with a `base_model`.

    Raises:
        ModelError: The model keeps no list of layers.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = _layers(model.base_model)
    if not layers:
        raise ModelError(
            f"model.name_or_path: no list of layers was found in a {model.config.model_type} model; set "
            "optim.layer_lr_decay to 1.0 and optim.name to another one than muon"
        )
    in_layers = {
        names[id(parameter)]: i + 1
        for i, parts in enumerate(layers)
        for module in parts
        for parameter in module.parameters()
    }
    depth = dict(in_layers)
    tables = embedding_tables(model.base_model)
    before_layers = True
    for parameter in model.base_model.parameters():
        name = names[id(parameter)]
        if name in in_layers:
            before_layers = False
        elif before_layers or id(parameter) in tables:
            depth[name] = 0
    return {name: depth.get(name, len(layers) + 1) for name in names.values()}


def embedding_tables(model: nn.Module) -> set[int]:
    """The ids of the weights of all embeddings, which are looked up rather than multiplied with."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _layers(base_model: nn.Module) -> list[tuple[nn.Module, ...]]:
    """The modules of each layer: the i-th of the longest list, or of every list that is as long (XLM)."""
    lists = _outermost_lists(base_model)
    num_layers = max(map(len, lists), default=0)
    return list(zip(*(modules for modules in lists if len(modules) == num_layers), strict=True)) if num_layers else []


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    lists: list[nn.ModuleList] = []
    for child in module.children():
        lists += [child] if isinstance(child, nn.ModuleList) else _outermost_lists(child)
    return lists
