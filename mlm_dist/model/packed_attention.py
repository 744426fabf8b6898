"""Packed rows: the arguments with which a transformers model computes each chunk as if it were alone in its row."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

from mlm_dist.errors import ModelError
from mlm_dist.model import attention
from mlm_dist.model.inference import evaluating
from mlm_dist.model.positions import first_position


class MaskStyle(NamedTuple):
    """How an architecture takes a mask of [rows, 1, length, length].

    Args:
        at_encoder: Whether the mask is an argument of the encoder, behind the embeddings, instead of the model.
        additive: Whether it is added to the scores (0 or the smallest number) instead of a boolean.
    """

    at_encoder: bool
    additive: bool


# Architectures for which the tests show that chunks of a row do not affect each other.
SEPARATING = frozenset(
    {
        *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert"),
        *("electra", "ernie", "esm", "eurobert", "megatron-bert", "modernbert"),
        *("mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm-roberta"),
    }
)
# Fields of their configurations with which they do: a convolution, or a scale that depends on a row's masked tokens.
_MIXING_FIELDS = ("conv_kernel_size", "token_dropout")

_STYLES = (MaskStyle(False, False), MaskStyle(False, True), MaskStyle(True, False))


class PackedAttention:
    """Turns the first positions of chunks into arguments of a model's forward pass. `fit` makes it.

    Args:
        model: A transformers masked-language model.
        style: How it takes the mask.
    """

    def __init__(self, model: Any, style: MaskStyle) -> None:
        self._model, self._style = model, style
        self._first_position = first_position(model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._mask: torch.Tensor | None = None
        encoder = getattr(model.base_model, "encoder", None)
        if style.at_encoder and isinstance(encoder, nn.Module):
            encoder.register_forward_pre_hook(self._set_mask, with_kwargs=True)

    def arguments(self, input_ids: torch.Tensor, cu_seq_lens: torch.Tensor) -> dict[str, Any]:
        """The arguments of the model's forward pass.

        Args:
            input_ids: [rows, length].
            cu_seq_lens: [chunks + 1], int32, the first position of each chunk in the flattened rows, and their end.
                Padding is a chunk too, because a token that attends to nothing gives NaN.
        """
        rows, length = input_ids.shape
        positions = torch.arange(rows * length, device=input_ids.device, dtype=cu_seq_lens.dtype).view(rows, length)
        chunk = torch.searchsorted(cu_seq_lens, positions, right=True)  # from 1
        mask = chunk[:, None, :, None] == chunk[:, None, None, :]  # [rows, 1, length, length]
        arguments: dict[str, Any] = {"input_ids": input_ids}
        if self._style.at_encoder:
            self._mask, arguments["attention_mask"] = mask, torch.ones_like(input_ids)
        elif reach := _reach(self._model.config):
            # Layers with sliding attention use a given mask as it is, so it must hold their limit as well.
            near = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(-reach).tril(reach)
            arguments["attention_mask"] = {"full_attention": mask, "sliding_attention": mask & near}
        elif self._style.additive:
            smallest = torch.finfo(self._model.dtype).min
            arguments["attention_mask"] = torch.zeros_like(mask, dtype=self._model.dtype).masked_fill(~mask, smallest)
        else:
            arguments["attention_mask"] = mask
        if self._takes_positions:
            arguments["position_ids"] = (positions - cu_seq_lens[chunk - 1]).long() + self._first_position
        if self._model.config._attn_implementation == attention.NAME:
            arguments |= {"cu_seq_lens_q": cu_seq_lens, "cu_seq_lens_k": cu_seq_lens}
        return arguments

    def _set_mask(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._mask is None:
            return None
        mask, self._mask = self._mask, None
        if "attention_mask" in kwargs:
            return args, kwargs | {"attention_mask": mask}
        return (args[0], mask, *args[2:]), kwargs


def supports_packing(config: Any) -> bool:
    """Whether a model of this transformers configuration is known to support packed rows; builds no model."""
    return config.model_type in SEPARATING and not any(getattr(config, name, None) for name in _MIXING_FIELDS)


def fit(model: Any) -> PackedAttention:
    """Try each way to give this architecture packed rows; return the one that gives chunks the logits they have alone.

    Raises:
        ModelError: None does, for example because the architecture mixes tokens outside attention.
    """
    with evaluating(model):
        for style in _STYLES:
            packed = PackedAttention(model, style)
            if _is_faithful(model, packed):
                return packed
    raise ModelError(
        f"rows.mode: a {model.config.model_type} model cannot keep the chunks of a packed row apart; use "
        "--rows.mode chunk, which puts each chunk into a row of its own"
    )


def _is_faithful(model: Any, packed: PackedAttention) -> bool:
    """Whether the chunks of two packed rows of arbitrary tokens have the logits that each has alone."""
    device, config = next(model.parameters()).device, model.config
    try:
        reach = _reach(config) or 0  # chunks must be longer than sliding attention reaches
        chunks, padding = [reach + 8, 4, 5, reach + 10], 3  # the first two and padding in a row, the others in another
        lengths = torch.tensor([0, *chunks[:2], padding, *chunks[2:]], dtype=torch.int32, device=device)
        cu_seq_lens = lengths.cumsum(0, dtype=torch.int32)
        input_ids = (torch.arange(int(cu_seq_lens[-1]), device=device) * 7 + 5) % min(config.vocab_size, 64)
        input_ids[input_ids == getattr(config, "pad_token_id", None)] += 1  # some models derive positions from padding
        if getattr(config, "mask_token_id", None) is not None:
            input_ids[3] = config.mask_token_id  # some models scale by the number of masks in a row
        logits = model(**packed.arguments(input_ids.view(2, -1), cu_seq_lens)).logits.flatten(0, 1)
        for begin, length in zip(cu_seq_lens[[0, 1, 3, 4]].tolist(), chunks, strict=True):
            alone = model(input_ids=input_ids[None, begin : begin + length]).logits[0]
            if not torch.allclose(logits[begin : begin + length], alone, rtol=1e-4, atol=1e-5):
                return False
        return True
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
        return False  # the model does not accept such a mask


def _reach(config: Any) -> int | None:
    """Tokens to either side that sliding attention reaches; None if no layer has sliding attention."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return int(config.sliding_window) if slides else None
