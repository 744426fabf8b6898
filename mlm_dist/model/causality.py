"""Causal attention, tried on a model: each token is changed in turn, and no token before it may notice."""

from __future__ import annotations

from typing import Any

import torch

from mlm_dist.model import trial, variable_length
from mlm_dist.model.inference import undone
from mlm_dist.model.packed_attention import UNCHANGED, PackedAttention
from mlm_dist.model.precision import precision_of_run

PADDING, SECOND_CHUNK = 3, 4  # tokens at the end of every second row
MOST_ROWS = trial.LENGTH  # and as many changed tokens; in longer rows they are spread evenly


def fault(model: Any, attention: PackedAttention, *, packed: bool, least_length: int = 0) -> str | None:
    """Why attention is not causal; None if it is.

    As many copies of a row as it has positions; each has another token changed. No logits may change before that token,
    nor in another chunk, in evaluation and in training, in fp32 and in the precision of the run; some behind it must.

    Args:
        model: A transformers masked-language model.
        attention: How it takes the mask.
        packed: Whether rows hold several chunks; otherwise some rows have padding.
        least_length: Tokens of a row, at least.
    """
    with undone(model):
        try:
            return _fault(model, attention, packed, least_length)
        except Exception as error:  # the model does not accept such a mask
            return trial.first_line(error)


def _fault(model: Any, attention: PackedAttention, packed: bool, least_length: int) -> str | None:
    device = next(model.parameters()).device
    length = trial.row_length(model.config, max(least_length, trial.LENGTH))
    parts = [length - PADDING - SECOND_CHUNK, SECOND_CHUNK, PADDING] if packed else [length - PADDING, PADDING]
    if min(parts) < 1:
        return f"its rows have {length} positions only"
    num_rows = min(MOST_ROWS, length)
    chunks = [of_row for i in range(num_rows) for of_row in (parts if i % 2 else [length])]
    cu_seq_lens = torch.tensor([0, *chunks], device=device).cumsum(0).to(torch.int32)
    numbers = variable_length.chunk_numbers(cu_seq_lens, num_rows, length)
    row, changed = torch.arange(num_rows, device=device), torch.arange(num_rows, device=device) * length // num_rows
    sees = numbers == numbers[row, changed][:, None]  # [rows, length]
    is_behind = torch.arange(length, device=device) > changed[:, None]
    stays = ~sees | (torch.arange(length, device=device) < changed[:, None])

    first = trial.tokens(model.config, num_rows, length).to(device)
    other = first.clone()
    one, another = first[0, 1], first[0, 2]
    other[row, changed] = torch.where(first[row, changed] == one, another, one)

    for precision in dict.fromkeys((None, precision_of_run())):
        if precision is not None and precision.name == "fp32":
            continue
        dtype = precision.dtype if precision is not None and precision.rounds_weights else None
        for training in (False, True):
            model.train(training)
            found = []
            for input_ids in (first, other):
                torch.manual_seed(0)
                arguments = attention.arguments(input_ids, cu_seq_lens, dtype, is_causal=True)
                found.append(trial.logits(model, precision, **arguments))
            change = (found[0] - found[1]).abs().amax(-1)  # [rows, length]
            if not (change[stays] <= UNCHANGED * found[0].abs().max()).all():
                return "a token sees those behind it"
            if not change[sees & is_behind].any():
                return "no token sees those before it"
        model.eval()
    return None
