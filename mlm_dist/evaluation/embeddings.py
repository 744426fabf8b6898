"""Text embeddings: a model's last hidden states, pooled over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mlm_dist.corpus.tokenizer import loading, ordinary_text
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.model.inference import evaluating

BATCH_SIZE = 32


class TextEncoder:
    """Texts to vectors, as sentence-transformers computes them with mean pooling and normalization.

    Args:
        model: A transformers masked-language model in fp32; it stays in its mode and on its device.
        tokenizer: Its tokenizer.
        max_length: Tokens of a text that are read, special tokens included.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        self._model, self._special = model, loading.special_tokens(tokenizer)
        self._room = max_length - len(self._special.prefix) - len(self._special.suffix)
        self._backend = ordinary_text.backend(tokenizer)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, hidden], fp32: vectors of length 1, whose products are cosine similarities."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(one.ids[: self._room], np.int64) for one in encodings]
        states = mean_states(self._model, ids, self._special, pools_special=True)
        unit: np.ndarray = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        return unit


def mean_states(
    model: Any, texts: Sequence[np.ndarray], special: SpecialTokens, *, pools_special: bool = False
) -> np.ndarray:
    """[texts, hidden], fp32: mean-pooled last hidden states, computed without dropout on the model's device.

    Args:
        model: A transformers masked-language model in fp32; it stays in its mode.
        texts: Token ids of each text, at least one, without special tokens. The model reads them with special tokens
            around.
        special: The special tokens of the tokenizer.
        pools_special: Whether special tokens around the text are a part of the mean, as sentence-transformers pools
            all tokens but padding.
    """
    states = np.zeros((len(texts), 0), np.float32)
    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # texts of one length need no padding
    with evaluating(model):
        for first in range(0, len(texts), BATCH_SIZE):
            batch = by_length[first : first + BATCH_SIZE]
            means = _mean_states(model, [texts[i] for i in batch], special, pools_special).cpu().numpy()
            if not states.shape[1]:
                states = np.zeros((len(texts), means.shape[1]), np.float32)
            states[batch] = means
    return states


def _mean_states(model: Any, texts: Sequence[np.ndarray], special: SpecialTokens, pools_special: bool) -> torch.Tensor:
    """[texts, hidden] of one batch."""
    device = next(model.parameters()).device
    num_prefix, num_special = len(special.prefix), len(special.prefix) + len(special.suffix)
    lengths = torch.tensor([len(ids) for ids in texts])
    width = int(lengths.max()) + num_special
    input_ids = torch.full((len(texts), width), special.pad)
    for row, ids in zip(input_ids, texts, strict=True):
        row[: len(ids) + num_special] = torch.tensor([*special.prefix, *ids.tolist(), *special.suffix])
    positions = torch.arange(width)
    is_token = positions < (lengths + num_special)[:, None]
    is_text = (positions >= num_prefix) & (positions < (lengths + num_prefix)[:, None])
    hidden = model.base_model(input_ids=input_ids.to(device), attention_mask=is_token.long().to(device))[0].float()
    weights = (is_token if pools_special else is_text)[..., None].to(device, hidden.dtype)  # [texts, width, 1]
    means: torch.Tensor = (hidden * weights).sum(1) / weights.sum(1)
    return means
