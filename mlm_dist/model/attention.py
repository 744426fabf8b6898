"""Attention for training: the fastest exact implementation on each device, registered with transformers by one name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlm_dist.model import precision, variable_length
from mlm_dist.model.dropout import RowMasks, select
from mlm_dist.model.variable_length import Window

NAME = "mlm_dist"
MASK_BLOCK = 512  # rows of a mask that are computed at a time
MAX_LENGTH_ON_CPU = 2048  # in longer rows the memory of the scores costs more than they save


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
        attention_mask: Which tokens attend to each other, as booleans or added to the scores; unused where chunks are
            given by their lengths.
        dropout: Dropout probability of the attention probabilities.
        scaling: Factor of the scores; by default 1 / sqrt(size).
        kwargs: Further arguments of transformers' attention functions. Used are `sliding_window`, the number of tokens
            to either side that a token attends to, itself included; for packed rows `chunk_mask`, [rows, 1, length,
            length], which tokens are in one chunk, in the form of attention_mask; or instead of a mask `cu_seq_lens_q`,
            [chunks + 1], the first position of each chunk in the flattened rows, with `max_length_q`, the tokens of the
            longest, and `causal_chunks`, whether a token attends to itself and those before it only, see
            `variable_length.attend`.

    Returns:
        [rows, length, heads, size], and no attention probabilities.
    """
    sliding_window, chunk_mask = kwargs.pop("sliding_window", None), kwargs.pop("chunk_mask", None)
    cu_seq_lens, longest = kwargs.pop("cu_seq_lens_q", None), kwargs.pop("max_length_q", None)
    is_causal = kwargs.pop("causal_chunks", False)
    if chunk_mask is not None:
        attention_mask = chunk_mask if attention_mask is None else _joined(attention_mask, chunk_mask)
    working = precision.working_dtype(query.device.type, query.dtype)
    query, key, value = query.to(working), key.to(working), value.to(working)  # rotary positions leave fp32
    if attention_mask is not None and attention_mask.is_floating_point() and query.device.type != "cpu":
        attention_mask = attention_mask.to(query.dtype)  # FSDP2 rounds the weights inside each layer only
    if cu_seq_lens is not None:
        reach = None if sliding_window is None else sliding_window - 1
        window, where = Window.of(reach, is_causal=is_causal), (cu_seq_lens, longest)
        return variable_length.attend(query, key, value, *where, dropout=dropout, scaling=scaling, window=window), None
    if query.device.type == "cpu" and _is_plain(module, query, key, value, attention_mask, kwargs):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Another model with the same transformers configuration has no masks.
        masks: RowMasks | None = getattr(module, "row_masks", None)
        shape = torch.Size([*query.shape[:3], key.shape[2]])
        keep = masks.draw(shape, dropout) if masks is not None and 0 < dropout < 1 else None
        if keep is not None or dropout == 0:
            attend_on_cpu = _plain_attention if torch.compiler.is_compiling() else _CpuAttention.apply
            return attend_on_cpu(query, key, value, attention_mask, keep, dropout, scale), None
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
    given |= {"attention_mask": attention_mask, "allow_is_bidirectional_skip": may_skip}
    length, offset = given["q_length"], given.get("q_offset", 0)
    mask: torch.Tensor | None
    if length <= MASK_BLOCK or may_skip or given.get("allow_is_causal_skip", True):
        mask = sdpa_mask(**given)
    else:
        # Distances of tokens are computed in int64, which takes 16 times the memory of the mask.
        def block(start: int) -> torch.Tensor:
            part: torch.Tensor = sdpa_mask(
                **given | {"q_length": min(MASK_BLOCK, length - start), "q_offset": offset + start}
            )
            return part

        mask = torch.cat([block(start) for start in range(0, length, MASK_BLOCK)], dim=2)
    if mask is None or mask.device.type == "cpu":
        return mask
    return additive(mask, precision.working_dtype(mask.device.type, given.get("dtype", torch.float32)))


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask as one that is added to the scores: 0, or the smallest number.

    Kernels on GPUs read masks in this form. They would convert a boolean one in every layer, and keep it for each.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _joined(mask: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Which tokens both masks let attend to each other."""
    if mask.dtype == other.dtype == torch.bool:
        return mask & other
    if mask.dtype == torch.bool:
        mask, other = other, mask
    return torch.minimum(mask, additive(other, mask.dtype) if other.dtype == torch.bool else other)


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
