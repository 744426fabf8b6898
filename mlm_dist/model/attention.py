"""Attention for training: the fastest exact way on the device at hand, behind one name in transformers' table."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from mlm_dist.model.dropout import RowDraws, only

NAME = "mlm_dist"
MAX_LENGTH_ON_CPU = 2048  # beyond, the scores of a row take more memory than they save time


def install(model: Any, draws: RowDraws) -> None:
    """Let a transformers model attend by `attend`, if it lets its attention be chosen.

    Args:
        model: The model.
        draws: What decides on its dropout.
    """
    if not (model._supports_attention_backend and model.config._attn_implementation == "sdpa"):
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    for module in model.modules():
        module.row_draws = draws


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention (Vaswani et al., 2017).

    Args:
        module: The attention layer.
        query: [rows, heads, length, size], as key and value.
        key: See query.
        value: See query.
        attention_mask: What tokens see each other, for all but the variable-length kernel.
        dropout: Of attention probabilities.
        scaling: Of the scores.
        sliding_window: Tokens each sees to either side, itself included.
        cu_seq_lens_q: [chunks + 1] where chunks begin in the flattened rows; None where rows are not packed.
        kwargs: What else the model hands through.

    Returns:
        [rows, length, heads, size], and no attention probabilities.
    """
    if torch.is_autocast_enabled(query.device.type):  # rotary positions leave queries and keys in fp32
        working = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(working), key.to(working), value.to(working)
    if query.device.type == "cpu" and _is_plain(module, query, key, value, attention_mask, kwargs):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        draws: RowDraws | None = getattr(module, "row_draws", None)  # missing where another model has this one's config
        shape = torch.Size([*query.shape[:3], key.shape[2]])
        keep = draws.keep(shape, dropout) if draws is not None and 0 < dropout < 1 else None
        if keep is not None or dropout == 0:
            products = _by_products if torch.compiler.is_compiling() else _OnCpu.apply
            return products(query, key, value, attention_mask, keep, dropout, scale), None
    if cu_seq_lens_q is not None and query.is_cuda:
        found_by_kernel = _variable_length(query, key, value, dropout, scaling, sliding_window, cu_seq_lens_q)
        if found_by_kernel is not None:
            return found_by_kernel, None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def _mask(*, attention_mask: torch.Tensor | None = None, **given: Any) -> torch.Tensor | None:
    """transformers' mask for scaled dot-product attention, without its look at whether there is any padding at all.

    That look waits for the device in each forward pass, and micro-batches only come with a mask where there is some.
    """
    from transformers.masking_utils import sdpa_mask

    may_skip = given.pop("allow_is_bidirectional_skip", False) and attention_mask is None
    found: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=may_skip, **given)
    return found


def _is_plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> bool:
    """Whether nothing is asked for but scores, a mask, softmax and dropout, on rows whose scores fit into memory."""
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
    """Attention inside chunks by flash attention of variable length; None where it cannot be had.

    torch's kernel drops nothing (2.13 fixes its dropout at 0), so that with a dropout a mask does its work instead.
    """
    parameters = torch.backends.cuda.SDPAParams(query, key, value, None, dropout, False, False)
    if dropout > 0.0 or not torch.backends.cuda.can_use_flash_attention(parameters):
        if not torch.compiler.is_compiling():  # a warning would cut what is compiled in two
            warnings.warn(
                "packed rows: this GPU, precision or an attention dropout over 0 leaves only attention with a mask, "
                "which is slower; see rows.mode",
                stacklevel=2,
            )
        return None
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = query.shape
    q, k, v = (states.transpose(1, 2).reshape(rows * length, heads, size) for states in (query, key, value))
    reach = -1 if sliding_window is None else sliding_window - 1
    attended: Any = varlen_attn(
        q, k, v, cu_seq_lens, cu_seq_lens, length, length, scale=scaling, window_size=(reach, reach)
    )
    found: torch.Tensor = attended.view(rows, length, heads, size)
    return found


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    keep: torch.Tensor | None,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """What `_OnCpu` computes, written down plainly for the compiler, which fuses it and derives its backward pass."""
    scores = query * scale @ key.transpose(2, 3)  # [rows, heads, length, length]
    if mask is not None:
        smallest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, smallest) if mask.dtype == torch.bool else scores + mask
    probabilities = torch.softmax(scores, -1)
    if keep is not None:
        probabilities = torch.where(keep != 0, probabilities * (1 / (1 - dropout)), 0.0)
    return (probabilities.to(value.dtype) @ value).transpose(1, 2)


class _OnCpu(torch.autograd.Function):
    """Attention by four batched products, its dropout drawn by row.

    torch's flash attention for CPUs spends most of its time in a backward pass without matrix units, and takes no
    dropout; its plain way copies the scores several times. This one is three to four times faster than either.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, keep, dropout, scale):  # type: ignore[no-untyped-def]
        rows, heads, length, size = query.shape
        # The scale goes with the query and the dropout's with the value, which are smaller than the scores.
        q, k, v = (states.reshape(rows * heads, length, size) for states in (query * scale, key, value))
        scores = torch.bmm(q, k.transpose(1, 2))  # [rows * heads, length, length]
        if mask is not None:
            by_row = scores.view(rows, heads, length, length)
            # Not minus infinity: padding that sees nothing shall give anything but not-a-number.
            smallest = torch.finfo(scores.dtype).min
            by_row.masked_fill_(~mask, smallest) if mask.dtype == torch.bool else by_row.add_(mask)
        probabilities = torch.softmax(scores, -1)
        if keep is not None:
            keep = keep.view(scores.shape)
            v = v / (1 - dropout)
        ctx.save_for_backward(q, k, v, probabilities, keep)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, query.shape
        found = torch.bmm(probabilities if keep is None else only(probabilities, keep), v)
        return found.view(rows, heads, length, size).transpose(1, 2)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        q, k, v, probabilities, keep = ctx.saved_tensors
        gradient = gradient.transpose(1, 2).reshape(q.shape)
        of_probabilities = torch.bmm(gradient, v.transpose(1, 2))
        if keep is not None:
            of_probabilities = only(of_probabilities, keep)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        kept = probabilities if keep is None else only(probabilities, keep)
        of_query = torch.bmm(of_scores, k).mul_(ctx.scale)
        of_key = torch.bmm(of_scores.transpose(1, 2), q)  # q is scaled already
        of_value = torch.bmm(kept.transpose(1, 2), gradient)
        if keep is not None:
            of_value.div_(1 - ctx.dropout)
        found = (states.view(ctx.shape) for states in (of_query, of_key, of_value))
        return (*found, None, None, None, None)
