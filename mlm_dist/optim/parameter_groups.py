"""Parameter groups: which parameters share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from mlm_dist.model.layers import depths, embedding_tables
from mlm_dist.optim.kind import Groups


def parameter_groups(
    module: Any,
    *,
    weight_decay: float,
    layer_lr_decay: float = 1.0,
    separate_hidden: bool = False,
    frozen: Sequence[Collection[str]] = (),
) -> Groups:
    """The parameters that need gradients, in groups.

    Args:
        module: The objective's module around a transformers model, not wrapped yet. Its own parameters are treated as
            those of the model's head.
        weight_decay: Weight decay of matrices; vectors have none.
        layer_lr_decay: The learning rate of each layer as a fraction of that of the layer above it.
        separate_hidden: Whether the matrices of hidden layers have groups of their own.
        frozen: For each phase, the names in the transformers model of the parameters that keep their values.

    Returns:
        Groups with the keys `params`, `weight_decay`, `lr_factor` (the learning rate as a fraction of that of the
        head), `hidden` (whether they are the matrices of hidden layers; False unless these are separate) and
        `frozen_in` (the phases in which they keep their values).

    Raises:
        ModelError: Layers are treated differently, and the model keeps no list of layers.
    """
    by_layer = layer_lr_decay != 1.0
    depth: dict[str, int] = depths(module.model) if by_layer or separate_hidden else {}
    top, tables = max(depth.values(), default=0), embedding_tables(module)
    parts: dict[tuple[int, bool, bool, tuple[int, ...]], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            own = name.removeprefix("model.")
            at, phases = depth.get(own, top), tuple(i for i, names in enumerate(frozen) if own in names)
            hidden = separate_hidden and 0 < at < top and parameter.ndim == 2 and id(parameter) not in tables
            parts.setdefault((at if by_layer else top, parameter.ndim <= 1, hidden, phases), []).append(parameter)
    return [
        {
            "params": parts[key],
            "weight_decay": 0.0 if is_vector else weight_decay,
            "lr_factor": layer_lr_decay ** (top - at),
            "hidden": hidden,
            "frozen_in": phases,
        }
        for key in sorted(parts)
        for at, is_vector, hidden, phases in [key]
    ]
