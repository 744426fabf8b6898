"""How many tokens a model has positions for, and a checkpoint's positions stretched where rows need more of them."""

from __future__ import annotations

import copy
from typing import Any

import torch


def max_positions(found: Any) -> int | None:
    """Tokens a row may have, or None where positions are relative and nothing bounds them.

    Models after RoBERTa give the first token the position padding index + 1, and so hold fewer than the field says.
    """
    positions = getattr(found, "max_position_embeddings", None)
    if positions is None or positions < 0 or getattr(found, "position_embedding_type", "absolute") == "rotary":
        return None
    return int(positions) - first_position(found)


def first_position(found: Any) -> int:
    """The position id of a row's first token: 0, or the one behind the padding index in models after RoBERTa."""
    # Some configurations leave the padding index open until there is a tokenizer; ours pad with 0.
    return int(found.pad_token_id or 0) + 1 if found.model_type in _POSITIONS_AFTER_PADDING else 0


def interpolate(found: Any, before: int) -> str | None:
    """Prepare a checkpoint's configuration for more positions than its weights were trained with.

    Rotary positions come closer to each other by a factor (Chen et al., 2023, https://arxiv.org/abs/2306.15595), all
    but those of layers that look no further than before. Tables are left to `stretched`. Relative positions that are
    learned stay as they are: tokens further apart than ever before count as far apart as the furthest.

    Args:
        found: The configuration, its number of positions already the new one.
        before: Tokens a row could have before.

    Returns:
        How it was done, in words; None if nothing can be done for this architecture.
    """
    if getattr(found, "rope_parameters", None):
        return _slow_down(found, (max_positions(found) or before) / before)
    how = []
    if getattr(found, "relative_attention", False):
        if found.max_relative_positions < 1:  # as many as there are positions
            found.max_relative_positions = before
        how.append(f"tokens more than {found.max_relative_positions:,} apart count as so far apart")
    tables = _tables(found, before)
    if tables:
        how.insert(0, "linearly interpolated")
    return ", ".join(how) if all(tables.values()) and how else None


def is_stretched(own: Any, found: Any) -> bool:
    """Whether weights of a configuration need `stretched` before they fit another one."""
    before, after = max_positions(own), max_positions(found)
    return not getattr(own, "rope_parameters", None) and before is not None and after is not None and after > before


@torch.no_grad()
def stretched(model: Any, max_position_embeddings: int) -> Any:
    """The same model with more positions, its tables of them linearly interpolated.

    The first and the last position keep their embedding, and so do rows before the first, such as the one of padding.

    Args:
        model: A transformers model in fp32.
        max_position_embeddings: Of its new configuration.
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
    for name, buffer in longer.named_buffers():  # those of another shape count positions, and are right as they are
        if buffer.shape == buffers[name].shape:
            buffer.copy_(buffers[name])
    return longer


# Position ids of these start behind the padding index, as in fairseq's RoBERTa.
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def _interpolated(rows: torch.Tensor, count: int) -> torch.Tensor:
    """[count, width] along the line through [n, width], both ends the same."""
    places = torch.linspace(0, len(rows) - 1, count, dtype=torch.float64)
    below = places.long().clamp(max=len(rows) - 2)
    return torch.lerp(rows[below], rows[below + 1], (places - below)[:, None].to(rows.dtype))


def _slow_down(found: Any, factor: float) -> str | None:
    """Divide the speed of rotary angles by a factor."""
    given = copy.deepcopy(found.rope_parameters)
    by_layer = {kind: part for kind, part in given.items() if isinstance(part, dict)}
    slowed = [part for kind, part in by_layer.items() if kind != "sliding_attention"] if by_layer else [given]
    if not slowed or any(part["rope_type"] not in ("default", "linear") for part in slowed):
        return None
    for part in slowed:
        part |= {"rope_type": "linear", "factor": factor * part.get("factor", 1.0)}
    found.rope_parameters = given
    return f"their rotary angles linearly interpolated by a factor of {factor:.4g}"


def _tables(found: Any, before: int) -> dict[str, bool]:
    """{parameter that has a row for each position: whether it is learned}."""
    from transformers import AutoModelForMaskedLM

    shorter = copy.deepcopy(found)
    shorter.max_position_embeddings = before + first_position(found)
    with torch.device("meta"):
        one, other = (AutoModelForMaskedLM.from_config(each) for each in (shorter, found))
    shapes = {name: parameter.shape for name, parameter in one.named_parameters()}
    return {
        name: parameter.requires_grad for name, parameter in other.named_parameters() if parameter.shape != shapes[name]
    }
