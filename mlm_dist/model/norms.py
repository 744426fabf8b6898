"""Under autocast, norms hand on what the next product would be given anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def lower_norms(model: Any) -> None:
    """Let a model's norms return bf16 or fp16 under autocast; what they compute inside stays fp32.

    Autocast leaves a norm's result in fp32, and each product that reads it then makes a copy of its own, three of them
    in front of query, key and value. The norm of the embeddings stays as it is: where layers normalise first, what it
    returns is the sum that all layers add to. Where they normalise last, as BERT does, a norm's result is that sum,
    which so goes from layer to layer in the lower precision, as it does under DeepSpeed.

    Args:
        model: A transformers model with a `base_model`.
    """
    kinds = (nn.LayerNorm, nn.RMSNorm)
    embeddings = getattr(model.base_model, "embeddings", None)
    spared = set() if embeddings is None else set(embeddings.modules())
    for module in model.modules():
        if isinstance(module, kinds) and module not in spared:
            module.register_forward_hook(_lower)


def _lower(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    kind = output.device.type
    return output.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else output
