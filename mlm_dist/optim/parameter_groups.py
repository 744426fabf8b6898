"""Parameter groups: which parameters share a learning rate and a weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from mlm_dist.model.layers import depths, embedding_tables
from mlm_dist.optim.kind import Groups


def parameter_groups(
    module: Any, *, weight_decay: float, layer_lr_decay: float = 1.0, separate_hidden: bool = False
) -> Groups:
    """The parameters that need gradients, in groups.

    Args:
        module: The objective's module around a transformers model, not wrapped yet. Its own parameters are treated as
            those of the model's head.
        weight_decay: Weight decay of matrices; vectors have none.
        layer_lr_decay: The learning rate of each layer as a fraction of that of the layer above it.
        separate_hidden: Whether the matrices of hidden layers have groups of their own.

    Returns:
        Groups with the keys `params`, `weight_decay`, `lr_factor` (the learning rate as a fraction of that of the head)
        and `hidden` (whether they are the matrices of hidden layers; False unless these are separate).

    Raises:
        ModelError: Layers are treated differently, and the model keeps no list of layers.
    """
    by_layer = layer_lr_decay != 1.0
    depth: dict[str, int] = depths(module.model) if by_layer or separate_hidden else {}
    top, tables = max(depth.values(), default=0), embedding_tables(module)
    parts: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            at = depth.get(name.removeprefix("model."), top)
            hidden = separate_hidden and 0 < at < top and parameter.ndim == 2 and id(parameter) not in tables
            parts.setdefault((at if by_layer else top, parameter.ndim <= 1, hidden), []).append(parameter)
    return [
        {
            "params": parts[key],
            "weight_decay": 0.0 if is_vector else weight_decay,
            "lr_factor": layer_lr_decay ** (top - at),
            "hidden": hidden,
        }
        for key in sorted(parts)
        for at, is_vector, hidden in [key]
    ]
