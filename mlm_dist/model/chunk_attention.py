"""How a model learns which tokens of its rows belong together: by the lengths of chunks, or by a mask."""

from __future__ import annotations

import logging
from typing import Any

import torch

from mlm_dist.model import attention, causality, packed_attention, precision, trial, variable_length
from mlm_dist.model.packed_attention import LENGTHS, PackedAttention
from mlm_dist.model.suitability import causal_error, causal_suitability, packing_error, suitability, takes

logger = logging.getLogger(__name__)


class ChunkAttention:
    """Turns rows into arguments of a model's forward pass.

    Where the device has the variable-length kernel, chunks are given by their lengths, and no mask is built: for packed
    rows, for padding, and for sliding attention. Otherwise a mask keeps them apart. Both ways are tried on the CPU
    first.

    Args:
        model: A transformers masked-language model.
        packed: Whether rows hold several chunks.

    Raises:
        ModelError: Rows are packed, and the architecture cannot keep chunks apart.
    """

    def __init__(self, model: Any, *, packed: bool) -> None:
        config = model.config
        self._model, self._packed = model, packed
        self._takes_mask = trial.takes(model, "attention_mask")
        self._slides = packed_attention.reach(config) is not None
        self._dtype = precision.precision_of_run().dtype
        self._by_mask = _by_mask(model) if packed else None
        self._by_lengths = self._on_gpu = None
        is_ours = config._attn_implementation == attention.NAME
        if is_ours and (torch.accelerator.is_available() or variable_length.is_possible()):
            self._by_lengths = _by_lengths(model)
            self._on_gpu = None if self._by_mask is None else _by_additive_mask(model, self._by_mask)
        self._head_size = _head_size(config)
        if not self._takes_mask:
            logger.info("a %s model has no mask for padding, so tokens mix with it", config.model_type)

    def arguments(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cu_seq_lens: torch.Tensor | None,
        longest: int | None,
        is_causal: bool = False,
    ) -> dict[str, Any]:
        """The arguments of the model's forward pass; see `MaskedLanguageModel.forward`."""
        kind = input_ids.device.type
        if is_causal and cu_seq_lens is None:
            cu_seq_lens = variable_length.lengths_of_rows(input_ids, attention_mask)
        if self._by_lengths is not None and self._has_kernel(kind):
            if cu_seq_lens is None and (self._slides or attention_mask is not None):
                cu_seq_lens = variable_length.lengths_of_rows(input_ids, attention_mask)
            if cu_seq_lens is not None:
                length = input_ids.shape[1]
                longest = min(longest or length, length)
                return self._by_lengths.arguments(input_ids, cu_seq_lens, longest=longest, is_causal=is_causal)
        if cu_seq_lens is not None:
            by_mask = self._by_mask if kind == "cpu" or self._on_gpu is None else self._on_gpu
            assert by_mask is not None, (
                "packed rows need MaskedLanguageModel(packed=True), causal ones require_causal()"
            )
            return by_mask.arguments(input_ids, cu_seq_lens, is_causal=is_causal)
        return {"input_ids": input_ids} | ({"attention_mask": attention_mask} if self._takes_mask else {})

    def require_causal(self) -> None:
        """Make sure that attention can be causal; of rows with one chunk each, find out how.

        Raises:
            ModelError: A token would see those behind it.
        """
        if self._by_mask is None:
            self._by_mask = _by_causal_mask(self._model)
            self._on_gpu = None if self._by_lengths is None else _by_additive_mask(self._model, self._by_mask)
        elif (why := causality.fault(self._model, self._by_mask, packed=self._packed)) is not None:
            raise causal_error(self._model.config, why)
        by_lengths = self._by_lengths
        if by_lengths is not None and causality.fault(self._model, by_lengths, packed=self._packed) is not None:
            self._by_lengths = None
            _log_masks(self._model.config)

    def _has_kernel(self, kind: str) -> bool:
        dtype = precision.working_dtype(kind, self._dtype)
        return self._head_size is not None and variable_length.has_kernel(kind, dtype, self._head_size)


def _by_mask(model: Any) -> PackedAttention:
    """How the model takes packed rows, found on a small copy of it and checked on the model itself.

    Raises:
        ModelError: It cannot keep chunks apart.
    """
    style, why = suitability(model.config)
    if style is not None:
        packed = PackedAttention(model, style)
        fault = packed_attention.fault(model, packed)
        if fault is None:
            return packed
        packed.remove()
        why = fault
    raise packing_error(model.config, why)


def _by_lengths(model: Any) -> PackedAttention | None:
    """The same by the lengths of chunks; None if that is not how the model computes."""
    style = takes(model.config, LENGTHS)
    if style is not None:
        packed = PackedAttention(model, style)
        if packed_attention.fault(model, packed) is None:
            return packed
    _log_masks(model.config)
    return None


def _by_causal_mask(model: Any) -> PackedAttention:
    """How the model takes the mask of causal attention in rows of one chunk each, found and checked like `_by_mask`.

    Raises:
        ModelError: A token would see those behind it.
    """
    style, why = causal_suitability(model.config, packed=False)
    if style is not None:
        by_mask = PackedAttention(model, style)
        fault = causality.fault(model, by_mask, packed=False)
        if fault is None:
            return by_mask
        by_mask.remove()
        why = fault
    raise causal_error(model.config, why)


def _log_masks(config: Any) -> None:
    logger.info("attention of a %s model uses masks: it computes more than the kernel does", config.model_type)


def _by_additive_mask(model: Any, by_mask: PackedAttention) -> PackedAttention | None:
    """The same as `by_mask` with a mask in the form that kernels on GPUs read; None if it has that form, or cannot."""
    style = by_mask.style._replace(form="additive")
    if by_mask.style.form != "boolean" or takes(model.config, [style]) is None:
        return None
    return PackedAttention(model, style)


def _head_size(config: Any) -> int | None:
    """The last dimension of queries and keys; None if the configuration does not tell."""
    size, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    given = getattr(config, "head_dim", None)
    return given or (size // heads if isinstance(size, int) and isinstance(heads, int) else None)
