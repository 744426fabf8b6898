"""Attention for training: the fastest exact implementation on each device, registered with transformers by one name."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import nn

from mlm_dist.model.dropout import RowMasks, select

NAME = "mlm_dist"
MAX_LENGTH_ON_CPU = 2048  # in longer rows the memory of the scores costs more than they save

logger = logging.getLogger(__name__)


def install(model: Any, masks: RowMasks) -> None:
    """Make a transformers model use `attend`, if its attention can be chosen.

    Args:
        model: The model.
        masks: Its dropout masks.
    """
    if not (model._supports_attention_backend and model.config._attn_implementation == "sdpa"):
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    for module in model.modules():
        module.row_masks = masks


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention (Vaswani et al., 2017).

    Args:
        module: The attention layer.
        query: [rows, heads, length, size], as key and value.
        key: See query.
        value: See query.
        attention_mask: Which tokens attend to each other; unused by the variable-length kernel.
        dropout: Dropout probability of the attention probabilities.
        scaling: Factor of the scores; by default 1 / sqrt(size).
        kwargs: Further arguments of transformers' attention functions. Used are `sliding_window`, the number of tokens
            to either side that a token attends to, itself included; and for packed rows `cu_seq_lens_q`, [chunks + 1],
            the first position of each chunk in the flattened rows, and `chunk_mask`, [rows, 1, length, length], True
            for tokens of one chunk.

    Returns:
        [rows, length, heads, size], and no attention probabilities.
    """
    sliding_window, cu_seq_lens_q = kwargs.pop("sliding_window", None), kwargs.pop("cu_seq_lens_q", None)
    chunk_mask = kwargs.pop("chunk_mask", None)
    if chunk_mask is not None:
        attention_mask = chunk_mask if attention_mask is None else attention_mask & chunk_mask
    if torch.is_autocast_enabled(query.device.type):  # rotary positions leave queries and keys in fp32
        working = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(working), key.to(working), value.to(working)
    if query.device.type == "cpu" and _is_plain(module, query, key, value, attention_mask, kwargs):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Another model with the same transformers configuration has no masks.
        masks: RowMasks | None = getattr(module, "row_masks", None)
        shape = torch.Size([*query.shape[:3], key.shape[2]])
        keep = masks.draw(shape, dropout) if masks is not None and 0 < dropout < 1 else None
        if keep is not None or dropout == 0:
            attend_on_cpu = _plain_attention if torch.compiler.is_compiling() else _CpuAttention.apply
            return attend_on_cpu(query, key, value, attention_mask, keep, dropout, scale), None
    if cu_seq_lens_q is not None and query.is_cuda:
        attended = _variable_length(query, key, value, dropout, scaling, sliding_window, cu_seq_lens_q)
        if attended is not None:
            return attended, None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def _mask(*, attention_mask: torch.Tensor | None = None, **given: Any) -> torch.Tensor | None:
    """transformers' mask for scaled dot-product attention, without its check whether the mask hides anything.

    The check waits for the device in every forward pass, and micro-batches without padding have no mask.
    """
    from transformers.masking_utils import sdpa_mask

    may_skip = given.pop("allow_is_bidirectional_skip", False) and attention_mask is None
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=may_skip, **given)
    return mask


def _is_plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> bool:
    """Whether attention is scores, a mask, softmax and dropout only, and the rows are short enough for the CPU."""
    is_causal = kwargs.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return (
        query.shape == key.shape == value.shape
        and query.shape[2] <= MAX_LENGTH_ON_CPU
        and not (is_causal and attention_mask is None)
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
    )


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    cu_seq_lens: torch.Tensor,
) -> torch.Tensor | None:
    """Attention within chunks by the variable-length flash-attention kernel; None if the kernel cannot be used.

    The kernel has no dropout (torch 2.13 fixes it at 0); attention with dropout uses a mask instead.
    """
    parameters = torch.backends.cuda.SDPAParams(query, key, value, None, dropout, False, False)
    if dropout > 0.0 or not torch.backends.cuda.can_use_flash_attention(parameters):
        if not torch.compiler.is_compiling():  # a warning would break the graph
            _warn_of_slow_attention()
        return None
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = query.shape
    q, k, v = (states.transpose(1, 2).reshape(rows * length, heads, size) for states in (query, key, value))
    reach = -1 if sliding_window is None else sliding_window - 1
    attended: Any = varlen_attn(
        q, k, v, cu_seq_lens, cu_seq_lens, length, length, scale=scaling, window_size=(reach, reach)
    )
    by_row: torch.Tensor = attended.view(rows, length, heads, size)
    return by_row


@functools.cache  # once per process, not once per layer and step
def _warn_of_slow_attention() -> None:
    logger.warning(
        "packed rows use attention with a mask, which is slower: this GPU or precision has no variable-length kernel, "
        "or the attention dropout is over 0; set rows.mode to chunk, or the model's attention dropout to 0"
    )


def _plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    keep: torch.Tensor | None,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """The same as `_CpuAttention` in plain operations, which the compiler fuses and differentiates."""
    scores = query * scale @ key.transpose(2, 3)  # [rows, heads, length, length]
    if mask is not None:
        smallest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, smallest) if mask.dtype == torch.bool else scores + mask
    probabilities = torch.softmax(scores, -1)
    if keep is not None:
        probabilities = torch.where(keep != 0, probabilities * (1 / (1 - dropout)), 0.0)
    return (probabilities.to(value.dtype) @ value).transpose(1, 2)


class _CpuAttention(torch.autograd.Function):
    """Attention as batched matrix products, with dropout masks drawn per row.

    torch's flash attention for CPUs does not use matrix units in its backward pass and has no dropout; its math
    implementation copies the scores several times. This one is three to four times faster than both.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, keep, dropout, scale):  # type: ignore[no-untyped-def]
        rows, heads, length, size = query.shape
        # Query and value are scaled instead of the scores and the probabilities, because they are smaller.
        q, k, v = (states.reshape(rows * heads, length, size) for states in (query * scale, key, value))
        scores = torch.bmm(q, k.transpose(1, 2))  # [rows * heads, length, length]
        if mask is not None:
            by_row = scores.view(rows, heads, length, length)
            # Not minus infinity, which gives NaN for padding that attends to nothing.
            smallest = torch.finfo(scores.dtype).min
            by_row.masked_fill_(~mask, smallest) if mask.dtype == torch.bool else by_row.add_(mask)
        probabilities = torch.softmax(scores, -1)
        if keep is not None:
            keep = keep.view(scores.shape)
            v = v / (1 - dropout)
        ctx.save_for_backward(q, k, v, probabilities, keep)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, query.shape
        attended = torch.bmm(probabilities if keep is None else select(probabilities, keep), v)
        return attended.view(rows, heads, length, size).transpose(1, 2)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        q, k, v, probabilities, keep = ctx.saved_tensors
        gradient = gradient.transpose(1, 2).reshape(q.shape)
        of_probabilities = torch.bmm(gradient, v.transpose(1, 2))
        if keep is not None:
            of_probabilities = select(of_probabilities, keep)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        kept = probabilities if keep is None else select(probabilities, keep)
        of_query = torch.bmm(of_scores, k).mul_(ctx.scale)
        of_key = torch.bmm(of_scores.transpose(1, 2), q)  # q is scaled already
        of_value = torch.bmm(kept.transpose(1, 2), gradient)
        if keep is not None:
            of_value.div_(1 - ctx.dropout)
        gradients = (states.view(ctx.shape) for states in (of_query, of_key, of_value))
        return (*gradients, None, None, None, None)
