"""Attention within chunks of any length, by the variable-length flash-attention kernel (Dao, 2023).

https://arxiv.org/abs/2307.08691. torch's wrapper `varlen_attn` fixes its dropout at 0. The operator below it has one,
with a derivative of its own: it returns the seed and the offset that it took from torch's generator, and the backward
pass draws the same mask from them. Dropout is therefore a function of the seed that a step sets. The compiler sees one
operator, and knows that it draws random numbers.
"""

from __future__ import annotations

import functools
import logging
from typing import NamedTuple

import torch
from torch.nn import functional as F

LARGEST_HEAD, HEAD_MULTIPLE = 192, 8  # sizes of heads that the kernel has a backward pass with dropout for

logger = logging.getLogger(__name__)


class Window(NamedTuple):
    """The tokens that a token attends to, besides itself, in its chunk.

    Args:
        left: How many before it; None for all.
        right: How many behind it; None for all, 0 for causal attention.
    """

    left: int | None = None
    right: int | None = None

    @classmethod
    def of(cls, reach: int | None, *, is_causal: bool) -> Window:
        """The window of attention that reaches so many tokens to either side; causal attention sees none behind."""
        return cls(reach, 0 if is_causal else reach)


WHOLE_CHUNK = Window()


def is_possible() -> bool:
    """Whether a device of this machine may have the kernel."""
    accelerator = torch.accelerator.current_accelerator()
    return any(map(_is_registered, ["cpu", *([accelerator.type] if accelerator is not None else [])]))


def has_kernel(kind: str, dtype: torch.dtype, head_size: int) -> bool:
    """Whether a kind of device has the kernel for a precision and a size of heads; if not, a GPU's log says so.

    Args:
        kind: cpu, cuda and so on, as torch calls it.
        dtype: Of queries, keys and values.
        head_size: Their last dimension.
    """
    return _is_registered(kind) and _fits(kind, dtype, head_size)


@functools.cache
def _fits(kind: str, dtype: torch.dtype, head_size: int) -> bool:
    fits = head_size <= LARGEST_HEAD and head_size % HEAD_MULTIPLE == 0
    if fits and kind == "cuda":
        states = torch.empty(1, 1, HEAD_MULTIPLE, head_size, dtype=dtype, device=kind, requires_grad=True)
        parameters = torch.backends.cuda.SDPAParams(states, states, states, None, 0.1, False, False)
        fits = torch.backends.cuda.can_use_flash_attention(parameters)
    if not fits:
        logger.warning(
            "attention uses masks, which is slower: this GPU has no variable-length kernel for heads of %d in %s",
            *(head_size, str(dtype).removeprefix("torch.")),
        )
    return fits


def _is_registered(kind: str) -> bool:
    key = torch._C._dispatch_key_for_device(kind)
    return torch._C._dispatch_has_kernel_for_dispatch_key("aten::_flash_attention_forward", key)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    longest: int | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    window: Window = WHOLE_CHUNK,
) -> torch.Tensor:
    """Scaled dot-product attention of the tokens of each chunk to each other: [rows, length, heads, size].

    Args:
        query: [rows, heads, length, size]; key and value may have fewer heads.
        key: See query.
        value: See query.
        cu_seq_lens: [chunks + 1], int32, the first position of each chunk in the flattened rows, and their end. Chunks
            may be empty.
        longest: Tokens of the longest chunk, or more; None to compute the same with a mask, on any device.
        dropout: Dropout probability of the attention probabilities, drawn from torch's generator.
        scaling: Factor of the scores; by default 1 / sqrt(size).
        window: The tokens that a token attends to.
    """
    rows, _, length, _ = query.shape
    if longest is None:
        mask = chunk_mask(chunk_numbers(cu_seq_lens, rows, length), window)
        by_mask = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling, enable_gqa=True)
        return by_mask.transpose(1, 2)
    flat = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))  # [rows * length, heads, size]
    left, right = (-1 if reach is None else reach for reach in window)
    attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *flat,
        *(cu_seq_lens, cu_seq_lens, longest, longest, dropout),
        is_causal=right == 0,
        return_debug_mask=False,
        scale=scaling,
        window_size_left=left,
        window_size_right=right,
    )[0]
    return attended.view(rows, length, *attended.shape[1:])


def chunk_numbers(cu_seq_lens: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """[rows, length]: the number of the chunk, from 1, that each position belongs to."""
    return torch.searchsorted(cu_seq_lens, _positions(cu_seq_lens, rows, length), right=True)


def chunk_positions(cu_seq_lens: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """[rows, length], int64: the index of each position in its chunk, which has one of these `chunk_numbers`."""
    return (_positions(cu_seq_lens, *numbers.shape) - cu_seq_lens[numbers - 1]).long()


def chunk_mask(numbers: torch.Tensor, window: Window = WHOLE_CHUNK) -> torch.Tensor:
    """[rows, 1, length, length] booleans: which tokens attend to which, those in one chunk and in the window."""
    mask = numbers[:, None, :, None] == numbers[:, None, None, :]
    if window.left is None and window.right is None:
        return mask
    length = numbers.shape[1]
    near = torch.ones(length, length, dtype=torch.bool, device=mask.device)
    if window.left is not None:
        near = near.triu(-window.left)
    if window.right is not None:
        near = near.tril(window.right)
    return mask & near


def lengths_of_rows(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`cu_seq_lens` of rows of one chunk each; the padding at the end of a row is a chunk, too.

    Args:
        input_ids: [rows, length].
        attention_mask: [rows, length], 1 for tokens and 0 for padding behind them; None if there is no padding.
    """
    rows, length = input_ids.shape
    starts = torch.arange(rows + 1, dtype=torch.int32, device=input_ids.device) * length
    if attention_mask is None:
        return starts
    ends = starts[:-1] + attention_mask.sum(1, dtype=torch.int32)
    return torch.cat([torch.stack([starts[:-1], ends], 1).flatten(), starts[-1:]])


def _positions(cu_seq_lens: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    positions = torch.arange(rows * length, device=cu_seq_lens.device, dtype=cu_seq_lens.dtype)
    return positions.view(rows, length)
