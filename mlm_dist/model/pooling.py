"""Vectors of texts from the states of their tokens."""

from __future__ import annotations

import torch


def mean_of_spans(hidden: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """The mean of the states of each text: [pairs, 2, hidden], in fp32 whatever the precision of the states.

    Special tokens count, as sentence-transformers pools all tokens but padding.

    Args:
        hidden: [rows, length, hidden] states.
        spans: [pairs, 2, 2], int64: of two texts in each of the first rows, the first position in the flattened rows
            and the one after the last.
    """
    count, (rows, length) = len(spans), hidden.shape[:2]
    positions = torch.arange(rows * length, device=hidden.device).view(rows, 1, length)[:count]
    inside = (positions >= spans[..., :1]) & (positions < spans[..., 1:])  # [pairs, 2, length]
    with torch.autocast(hidden.device.type, enabled=False):
        weights = inside.float()
        return (weights @ hidden[:count].float()) / weights.sum(-1, keepdim=True).clamp(min=1)
