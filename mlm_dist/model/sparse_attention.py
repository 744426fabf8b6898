"""BigBird's sparse attention, chosen by the length of each row alone."""

from __future__ import annotations

from typing import Any


def fit(model: Any, length: int) -> None:
    """Give a BigBird the attention that transformers uses for rows of a length; other models stay as they are.

    transformers goes over to full attention for good at the first short row (BigBirdModel.forward), so that a loss
    would depend on the rows before, and a resumed run would differ.

    Args:
        model: A transformers masked-language model.
        length: Tokens per row.
    """
    longest = longest_full(model.config)
    if longest is not None:
        model.base_model.set_attention_type("original_full" if length <= longest else "block_sparse")


def longest_full(config: Any) -> int | None:
    """The longest rows that have full attention; None if the attention does not depend on the length."""
    if getattr(config, "attention_type", None) != "block_sparse":
        return None
    return int((5 + 2 * config.num_random_blocks) * config.block_size)
