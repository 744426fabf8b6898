"""Memory of activations: what a forward pass keeps for the backward pass, from formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlm_dist.engine.launch import BYTES
from mlm_dist.model.attention import MAX_LENGTH_ON_CPU

if TYPE_CHECKING:
    from mlm_dist.engine.memory import Settings, Shape


def activations(settings: Settings, shape: Shape, precision: str, micro_size: int) -> int:
    """Bytes that a forward pass of `micro_size` rows keeps, and the first of the backward pass adds.

    After Korthikanti et al., 2022 (https://arxiv.org/abs/2205.05198, section 4.1), per token and layer: the input of
    the query, key and value projections, their three outputs, attention's output, the input of the feed-forward layer,
    its inside before and after the non-linearity, all in the precision of the products; the inputs of both norms in
    fp32, on the CPU in that of the products; a byte for each dropout mask; and what attention keeps, see `_attention`.
    The head keeps logits at predicted positions only: in their precision, in fp32, their logarithms, and the gradients
    of both. One layer is added as working memory of the backward pass.

    With activation checkpointing a layer keeps its input, counted in fp32, which it has in pre-norm models. The
    backward pass through the head, or through one layer that is computed again, adds the rest, whichever is larger.
    """
    e = BYTES[precision]
    h, inside = shape.hidden, shape.intermediate * (4 if shape.gated else 2)
    masks = 2 * h if shape.dropout else 0
    norms = (e if shape.on_cpu else 4) * 2 * h
    per_layer = e * (6 * h + inside) + norms + masks + _attention(settings, shape, e)
    embeddings = 4 * 3 * h
    per_logit = 12 if e == 4 else 16
    head = settings.predicted * (4 * e * h + per_logit * shape.vocabulary)
    if settings.checkpointing == "layers":
        per_token = shape.layers * 4 * h + max(2 * per_layer, head)
    else:
        per_token = (shape.layers + 1) * per_layer + head
    return int(micro_size * settings.max_length * (per_token + embeddings + _masks(settings, shape)))


def _attention(settings: Settings, shape: Shape, e: int) -> float:
    """Bytes per token that attention keeps in a layer.

    Values per head and pair of positions are kept without a fused kernel: 9 bytes in fp32 (the softmax's output, with
    and without dropout, and the mask), and 13 under autocast, which computes the softmax in fp32. The CPU kernel keeps
    the softmax's output and a byte for the mask, in rows that it takes. In longer ones torch's kernels are fused, but
    not with dropout. Fused kernels keep a mask of each row in the precision of the products, one for all heads.
    """
    length = settings.max_length
    per_score = 9 if e == 4 else 13
    if not shape.fused:
        return shape.heads * length * per_score
    if not shape.on_cpu:
        return e * length if settings.is_packed and shape.attention_dropout else 0
    if length <= MAX_LENGTH_ON_CPU:
        return shape.heads * length * (e + (shape.dropout or shape.attention_dropout))
    return shape.heads * length * per_score if shape.attention_dropout else e * length


def _masks(settings: Settings, shape: Shape) -> int:
    """Bytes per token of the masks of packed rows, a byte for each pair of positions, which all layers share."""
    return settings.max_length * (2 if shape.slides else 1) if settings.is_packed else 0
