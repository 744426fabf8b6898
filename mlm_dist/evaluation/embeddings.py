"""Texts as vectors: the mean of a model's last hidden states over their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.model.inference import evaluating

TEXTS_AT_A_TIME = 32


def mean_states(model: Any, texts: Sequence[np.ndarray], special: SpecialTokens) -> np.ndarray:
    """[texts, hidden], fp32; computed on the model's device, its mode and its gradients stay as they are.

    Args:
        model: A transformers masked-language model in fp32.
        texts: Ids of the tokens of each, at least one, without special tokens; those are put around them, and are seen
            by the others, but are not in the mean.
        special: The tokenizer's.
    """
    found = np.zeros((len(texts), 0), np.float32)
    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # so that little is padded
    with evaluating(model):
        for first in range(0, len(texts), TEXTS_AT_A_TIME):
            here = by_length[first : first + TEXTS_AT_A_TIME]
            means = _means(model, [texts[i] for i in here], special).cpu().numpy()
            if not found.shape[1]:
                found = np.zeros((len(texts), means.shape[1]), np.float32)
            found[here] = means
    return found


def _means(model: Any, texts: Sequence[np.ndarray], special: SpecialTokens) -> torch.Tensor:
    device = next(model.parameters()).device
    before, around = len(special.prefix), len(special.prefix) + len(special.suffix)
    lengths = torch.tensor([len(ids) for ids in texts])
    width = int(lengths.max()) + around
    input_ids = torch.full((len(texts), width), special.pad)
    for row, ids in zip(input_ids, texts, strict=True):
        row[: len(ids) + around] = torch.tensor([*special.prefix, *ids.tolist(), *special.suffix])
    places = torch.arange(width)
    is_token = places < (lengths + around)[:, None]
    is_content = (places >= before) & (places < (lengths + before)[:, None])
    hidden = model.base_model(input_ids=input_ids.to(device), attention_mask=is_token.long().to(device))[0].float()
    content = is_content[..., None].to(device, hidden.dtype)  # [texts, width, 1]
    means: torch.Tensor = (hidden * content).sum(1) / content.sum(1)
    return means
