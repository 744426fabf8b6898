"""Memory of activations: what a forward pass keeps for the backward pass, from formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlm_dist.engine.launch import BYTES
from mlm_dist.model.attention import MAX_LENGTH_ON_CPU

if TYPE_CHECKING:
    from mlm_dist.engine.memory import Settings, Shape


def activations(settings: Settings, shape: Shape, precision: str, micro_size: int, gaps: float = 1.0) -> int:
    """Bytes that a forward pass of `micro_size` rows keeps, and the first of the backward pass adds.

    After Korthikanti et al., 2022 (https://arxiv.org/abs/2205.05198, section 4.1), per token and layer: the input of
    the query, key and value projections, their three outputs, attention's output, the input of the feed-forward layer,
    its inside before and after the non-linearity, all in the precision of the products; the inputs of both norms in
    fp32, on the CPU in that of the products unless the model has gates, as such models are pre-norm; a byte for each
    dropout mask; and what attention keeps, see `_scores` and `_layer_mask`. The head keeps logits at predicted
    positions only: in their precision, in fp32, their logarithms, and the gradients of both. One layer is added as
    working memory of the backward pass.

    With activation checkpointing a layer keeps its input, counted in fp32, which it has in pre-norm models. The
    backward pass through the head, or through one layer that is computed again, adds the rest, whichever is larger.

    Args:
        settings: What it depends on besides the model.
        shape: The model.
        precision: fp32, bf16 or fp16.
        micro_size: Rows.
        gaps: Factor for gaps between blocks of memory; masks of long rows are blocks too large to leave any.
    """
    e = BYTES[precision]
    h, inside = shape.hidden, shape.intermediate * (4 if shape.gated else 2)
    dropout = 2 * h if shape.dropout else 0
    norms = (e if shape.on_cpu and not shape.gated else 4) * 2 * h
    layer, mask = e * (6 * h + inside) + norms + dropout + _scores(settings, shape, e), _layer_mask(settings, shape, e)
    embeddings = 4 * 3 * h
    per_logit = 12 if e == 4 else 16
    head = settings.predicted * (4 * e * h + per_logit * shape.vocabulary)
    if settings.checkpointing == "layers":
        kept, masks = shape.layers * 4 * h + max(2 * layer, head), mask
    else:
        kept, masks = (shape.layers + 1) * layer + head, shape.layers * mask
    return int(micro_size * settings.max_length * (gaps * (kept + embeddings) + masks + _masks(settings, shape, e)))


def _scores(settings: Settings, shape: Shape, e: int) -> float:
    """Bytes per token that attention keeps in a layer for each head and pair of positions.

    Without a fused kernel these are 9 bytes in fp32 (the softmax's output, with and without dropout, and the mask), and
    13 under autocast, which computes the softmax in fp32. The CPU kernel keeps the softmax's output and a byte for the
    mask. Longer rows than it takes have torch's fused kernel there, but not with dropout.
    """
    pairs = shape.heads * settings.max_length
    if shape.fused and not shape.on_cpu:
        return 0
    if shape.fused and settings.max_length <= MAX_LENGTH_ON_CPU:
        return pairs * (e + (shape.dropout or shape.attention_dropout))
    return 0 if shape.fused and not shape.attention_dropout else pairs * (9 if e == 4 else 13)


def _layer_mask(settings: Settings, shape: Shape, e: int) -> int:
    """Bytes per token of the mask that torch's attention on the CPU keeps in a layer, in the products' precision."""
    return e * settings.max_length if shape.fused and shape.on_cpu and settings.max_length > MAX_LENGTH_ON_CPU else 0


def _masks(settings: Settings, shape: Shape, e: int) -> int:
    """Bytes per token of the masks that layers share, for each pair of positions: one for each reach.

    A byte on the CPU. On a GPU the variable-length kernel reads none; without it a mask is made of a byte, and layers
    share it in the precision of the products.
    """
    if shape.on_cpu:
        return settings.max_length * (1 + (settings.is_packed and shape.slides))
    return 0 if shape.fused and shape.kernel else settings.max_length * (e + 1) * (1 + shape.slides)
