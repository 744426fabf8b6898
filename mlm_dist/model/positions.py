"""The number of positions of a model, and the interpolation of a checkpoint's positions for longer rows."""

from __future__ import annotations

import copy
from typing import Any

import torch


def max_positions(config: Any) -> int | None:
    """Tokens that a row may have; None if positions are relative and unbounded.

    Models after RoBERTa number positions from the padding index + 1, so they have fewer than the field says.

    Args:
        config: A transformers configuration, as in all functions here.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 0 or getattr(config, "position_embedding_type", "absolute") == "rotary":
        return None
    return int(positions) - first_position(config)


def first_position(config: Any) -> int:
    """The position id of a row's first token: 0, or in models after RoBERTa the padding index + 1."""
    if config.model_type == "mpnet":  # its padding index for positions is 1, whatever that of the tokenizer
        return 2
    # Some configurations have no padding index before there is a tokenizer; tokenizers trained here pad with 0.
    return int(config.pad_token_id or 0) + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0


def interpolate(config: Any, before: int) -> str | None:
    """Change a checkpoint's configuration for more positions than its weights were trained with.

    Rotary angles are divided by a factor (Chen et al., 2023, https://arxiv.org/abs/2306.15595), except those of sliding
    attention, whose reach stays the same. Tables of positions are interpolated by `stretched`. Learned relative
    positions stay the same: distances over the longest one use its embedding.

    Args:
        config: The configuration, with the new number of positions.
        before: Tokens that a row could have before.

    Returns:
        A description of the change; None if the architecture cannot be interpolated.
    """
    if getattr(config, "rope_parameters", None):
        return _slow_down(config, (max_positions(config) or before) / before)
    how = []
    if getattr(config, "relative_attention", False):
        if config.max_relative_positions < 1:  # as many as there are positions
            config.max_relative_positions = before
        how.append(f"distances over {config.max_relative_positions:,} count as {config.max_relative_positions:,}")
    tables = _tables(config, before)
    if tables:
        how.insert(0, "linearly interpolated")
    return ", ".join(how) if all(tables.values()) and how else None


def needs_stretching(saved: Any, wanted: Any) -> bool:
    """Whether weights of one configuration need `stretched` to fit another one."""
    before, after = max_positions(saved), max_positions(wanted)
    return not getattr(saved, "rope_parameters", None) and before is not None and after is not None and after > before


@torch.no_grad()
def stretched(model: Any, max_position_embeddings: int) -> Any:
    """A copy of a model with more positions, its tables of positions linearly interpolated.

    The first and the last position keep their embedding, and so do rows before the first, such as that of padding.

    Args:
        model: A transformers model in fp32.
        max_position_embeddings: The value of the new configuration.
    """
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = max_position_embeddings
    longer = type(model)._from_config(config, dtype=torch.float32)
    before, room = dict(model.named_parameters()), max_positions(model.config)
    assert room is not None
    for name, parameter in longer.named_parameters():
        table = before[name]
        if table.shape != parameter.shape:
            special = len(table) - room
            table = torch.cat([table[:special], _interpolated(table[special:], len(parameter) - special)])
        parameter.copy_(table)
    buffers = dict(model.named_buffers())
    for name, buffer in longer.named_buffers():  # buffers of another shape hold position ids, which are right already
        if buffer.shape == buffers[name].shape:
            buffer.copy_(buffers[name])
    return longer


# Architectures whose position ids start behind the padding index, as in fairseq's RoBERTa.
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def _interpolated(rows: torch.Tensor, count: int) -> torch.Tensor:
    """[count, width] on the lines between the rows of [n, width], with the same first and last row."""
    points = torch.linspace(0, len(rows) - 1, count, dtype=torch.float64)
    below = points.long().clamp(max=len(rows) - 2)
    return torch.lerp(rows[below], rows[below + 1], (points - below)[:, None].to(rows.dtype))


def _slow_down(config: Any, factor: float) -> str | None:
    """Divide the rotary angles by a factor."""
    parameters = copy.deepcopy(config.rope_parameters)
    by_layer = {kind: part for kind, part in parameters.items() if isinstance(part, dict)}
    slowed = [part for kind, part in by_layer.items() if kind != "sliding_attention"] if by_layer else [parameters]
    if not slowed or any(part["rope_type"] not in ("default", "linear") for part in slowed):
        return None
    for part in slowed:
        part |= {"rope_type": "linear", "factor": factor * part.get("factor", 1.0)}
    config.rope_parameters = parameters
    return f"rotary angles linearly interpolated by a factor of {factor:.4g}"


def _tables(config: Any, before: int) -> dict[str, bool]:
    """{parameter with a row for each position: whether it is learned}."""
    from transformers import AutoModelForMaskedLM

    shorter = copy.deepcopy(config)
    shorter.max_position_embeddings = before + first_position(config)
    with torch.device("meta"):
        one, other = (AutoModelForMaskedLM.from_config(each) for each in (shorter, config))
    shapes = {name: parameter.shape for name, parameter in one.named_parameters()}
    return {
        name: parameter.requires_grad for name, parameter in other.named_parameters() if parameter.shape != shapes[name]
    }
