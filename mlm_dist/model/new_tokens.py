"""Initial embeddings of tokens that a checkpoint's vocabulary lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F


@torch.no_grad()
def start_from_pieces(model: Any, pieces: Mapping[int, Sequence[int]]) -> None:
    """Set each new token to the mean of its pieces, in the input embedding, the output embedding and the output bias.

    Its first logit is then the mean of its pieces' logits, because the output layer is linear. The method is that of
    AdaLM (Yao et al., 2021, https://arxiv.org/abs/2106.13474); Hewitt, 2021, explains what random vectors do instead.

    Args:
        model: A transformers masked-language model with a vocabulary that holds the new tokens, not wrapped yet.
        pieces: {id: ids of the pieces}; no piece is a new token itself.
    """
    if not pieces:
        return
    new = torch.tensor(list(pieces))
    flat = torch.tensor([piece for one in pieces.values() for piece in one])
    starts = torch.tensor([0, *map(len, pieces.values())][:-1]).cumsum(0)
    for tensor in _per_token(model):
        rows = tensor.view(len(tensor), -1)  # [vocabulary, width]
        rows[new] = F.embedding_bag(flat, rows, starts, mode="mean")


def _per_token(model: Any) -> list[torch.Tensor]:
    """Every tensor of the model that has a row for each token, tied ones once."""
    output = model.get_output_embeddings()
    tensors = [model.get_input_embeddings().weight]
    if output is not None:
        tensors += [output.weight] + ([output.bias] if getattr(output, "bias", None) is not None else [])
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())
