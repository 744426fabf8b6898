"""Packed rows: a transformers model made to see each window of a row as if it stood in a row of its own."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

from mlm_dist.errors import ModelError
from mlm_dist.model import attention
from mlm_dist.model.inference import evaluating
from mlm_dist.model.positions import first_position


class Way(NamedTuple):
    """One way to tell an architecture which tokens see each other.

    Args:
        at_encoder: Whether the mask goes to the encoder, behind the embeddings, rather than to the model.
        additive: Whether it is added to the scores, 0 or the smallest number, rather than True or False.
    """

    at_encoder: bool
    additive: bool


# Architectures that the suite sees keep chunks apart, and fields of a configuration by which some of them do not:
# tokens are mixed by a convolution, or scaled by how many of a row are masked.
KEEP_APART = frozenset(
    {
        *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert"),
        *("electra", "ernie", "esm", "eurobert", "megatron-bert", "modernbert"),
        *("mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm-roberta"),
    }
)
_MIX = ("conv_kernel_size", "token_dropout")

_WAYS = (Way(False, False), Way(False, True), Way(True, False))


class PackedAttention:
    """Turns the beginnings of chunks into arguments of a model's forward pass. Get one from `fit`.

    Args:
        model: A transformers masked-language model.
        way: How it takes the mask.
    """

    def __init__(self, model: Any, way: Way) -> None:
        self._model, self._way = model, way
        self._first_position = first_position(model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._mask: torch.Tensor | None = None
        encoder = getattr(model.base_model, "encoder", None)
        if way.at_encoder and isinstance(encoder, nn.Module):
            encoder.register_forward_pre_hook(self._hand_over, with_kwargs=True)

    def arguments(self, input_ids: torch.Tensor, cu_seq_lens: torch.Tensor) -> dict[str, Any]:
        """What to call the model with.

        Args:
            input_ids: [rows, length].
            cu_seq_lens: [chunks + 1], int32, where each window begins in the flattened rows, and their end. Padding is
                a window too, for a token that sees nothing is not a number.
        """
        rows, length = input_ids.shape
        places = torch.arange(rows * length, device=input_ids.device, dtype=cu_seq_lens.dtype).view(rows, length)
        window = torch.searchsorted(cu_seq_lens, places, right=True)  # from 1
        mask = window[:, None, :, None] == window[:, None, None, :]  # [rows, 1, length, length]
        found: dict[str, Any] = {"input_ids": input_ids}
        if self._way.at_encoder:
            self._mask, found["attention_mask"] = mask, torch.ones_like(input_ids)
        elif reach := _reach(self._model.config):
            # A ready mask is taken as it is, also by layers that would look no further than this to either side.
            near = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(-reach).tril(reach)
            found["attention_mask"] = {"full_attention": mask, "sliding_attention": mask & near}
        elif self._way.additive:
            smallest = torch.finfo(self._model.dtype).min
            found["attention_mask"] = torch.zeros_like(mask, dtype=self._model.dtype).masked_fill(~mask, smallest)
        else:
            found["attention_mask"] = mask
        if self._takes_positions:
            found["position_ids"] = (places - cu_seq_lens[window - 1]).long() + self._first_position
        if self._model.config._attn_implementation == attention.NAME:
            found |= {"cu_seq_lens_q": cu_seq_lens, "cu_seq_lens_k": cu_seq_lens}
        return found

    def _hand_over(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._mask is None:
            return None
        mask, self._mask = self._mask, None
        if "attention_mask" in kwargs:
            return args, kwargs | {"attention_mask": mask}
        return (args[0], mask, *args[2:]), kwargs


def is_known_to_fit(config: Any) -> bool:
    """Whether a model of this transformers configuration takes packed rows, as far as is known without building it."""
    return config.model_type in KEEP_APART and not any(getattr(config, name, None) for name in _MIX)


def fit(model: Any) -> PackedAttention:
    """Find the way this architecture takes packed rows, by trial: packed, chunks must give the logits they give alone.

    Raises:
        ModelError: There is none; the architecture mixes tokens by other means than attention, say.
    """
    with evaluating(model):
        for way in _WAYS:
            packed = PackedAttention(model, way)
            if _is_faithful(model, packed):
                return packed
    raise ModelError(
        f"rows.mode: a {model.config.model_type} model cannot keep the chunks of a packed row apart; use "
        "--rows.mode chunk, which gives each a row of its own"
    )


def _is_faithful(model: Any, packed: PackedAttention) -> bool:
    """Whether two packed rows of arbitrary tokens give the logits that each of their chunks gives alone."""
    device, config = next(model.parameters()).device, model.config
    try:
        reach = _reach(config) or 0  # chunks must be longer than a layer may look
        chunks, padding = [reach + 8, 4, 5, reach + 10], 3  # the first two and padding in a row, the others in another
        lengths = torch.tensor([0, *chunks[:2], padding, *chunks[2:]], dtype=torch.int32, device=device)
        cu_seq_lens = lengths.cumsum(0, dtype=torch.int32)
        input_ids = (torch.arange(int(cu_seq_lens[-1]), device=device) * 7 + 5) % min(config.vocab_size, 64)
        input_ids[input_ids == getattr(config, "pad_token_id", None)] += 1  # some count their positions by them
        if getattr(config, "mask_token_id", None) is not None:
            input_ids[3] = config.mask_token_id  # some scale by how many there are in a row
        logits = model(**packed.arguments(input_ids.view(2, -1), cu_seq_lens)).logits.flatten(0, 1)
        for begin, length in zip(cu_seq_lens[[0, 1, 3, 4]].tolist(), chunks, strict=True):
            alone = model(input_ids=input_ids[None, begin : begin + length]).logits[0]
            if not torch.allclose(logits[begin : begin + length], alone, rtol=1e-4, atol=1e-5):
                return False
        return True
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
        return False  # it takes no such mask


def _reach(config: Any) -> int | None:
    """How far to either side sliding attention looks; None where no layer slides."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return int(config.sliding_window) if slides else None
