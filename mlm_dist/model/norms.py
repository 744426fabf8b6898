"""Norms that return their result in autocast's precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlm_dist.model import precision


def lower_norms(model: Any) -> None:
    """Make a model's norms return bf16 or fp16 under autocast; they still compute in fp32.

    Autocast leaves the result of a norm in fp32, and every product that reads it makes a copy in the lower precision:
    three of them for query, key and value. The norm of the embeddings keeps fp32, because in pre-norm models its result
    is the residual stream that all layers add to. In post-norm models such as BERT the result of each norm is that
    stream, which so passes between layers in the lower precision, as it does under DeepSpeed.

    Args:
        model: A transformers model with a `base_model`.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    in_fp32 = set() if embeddings is None else set(embeddings.modules())
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module not in in_fp32:
            module.register_forward_hook(_lower)


def _lower(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output.to(precision.working_dtype(output.device.type, output.dtype))
