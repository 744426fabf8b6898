"""How deep in an encoder each parameter lies, for any architecture."""

from __future__ import annotations

from typing import Any

from torch import nn

from mlm_dist.errors import ModelError


def depths(model: Any) -> dict[str, int]:
    """{parameter: depth}: 0 for the embeddings, i for the i-th block, and one more than the last for the head.

    The blocks are the longest list of modules in the base model; where several are as long (XLM keeps a list of each
    kind of layer), the i-th of each belong together. What lies between embeddings and blocks counts with the
    embeddings, what comes after the blocks with the head. An output matrix that is tied to the embeddings is one of
    them, and layers that share their weights (ALBERT's) are one block.

    Args:
        model: A transformers model, its `base_model` somewhere in it.

    Raises:
        ModelError: It has no list of blocks.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    base = model.base_model
    lists = _outermost_lists(base)
    num_blocks = max(map(len, lists), default=0)
    if not num_blocks:
        raise ModelError(
            f"model.name_or_path: no list of layers was found in a {model.config.model_type} model; set "
            "optim.layer_lr_decay to 1.0 and optim.name to another one than muon"
        )
    found: dict[str, int] = {}
    for blocks in lists:
        for i, block in enumerate(blocks if len(blocks) == num_blocks else ()):
            found |= {names[id(parameter)]: i + 1 for parameter in block.parameters()}
    of_blocks = set(found)
    tables = embedding_tables(base)
    before_blocks = True
    for parameter in base.parameters():
        name = names[id(parameter)]
        if name in of_blocks:
            before_blocks = False
        elif before_blocks or id(parameter) in tables:
            found[name] = 0
    return {name: found.get(name, num_blocks + 1) for name in names.values()}


def embedding_tables(model: nn.Module) -> set[int]:
    """The ids of all tables that are looked things up in, rather than multiplied with."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    found: list[nn.ModuleList] = []
    for child in module.children():
        found += [child] if isinstance(child, nn.ModuleList) else _outermost_lists(child)
    return found
