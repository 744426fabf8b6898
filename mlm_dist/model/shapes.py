"""Small shapes that can be named instead of an architecture."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """An architecture and the sizes of a model.

    Args:
        model_type: The architecture, as transformers names it.
        fields: Fields of its configuration.
    """

    model_type: str
    fields: dict[str, Any]


def _bert(num_layers: int, hidden_size: int) -> Shape:
    """A BERT without dropout, because models of this size do not memorise their text."""
    return Shape(
        "bert",
        {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // 64,
            "intermediate_size": 4 * hidden_size,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    )


# In a few minutes a model learns little besides what neighbouring tokens say. The second layer of modernbert-tiny sees
# four of them on each side and nothing else; `benchmarks/first_result.py` compares it with others. The rest are BERTs
# by the names of Turc et al., 2019, https://arxiv.org/abs/1908.08962.
SHAPES = {
    "modernbert-tiny": Shape(
        "modernbert",
        {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "local_attention": 8,
        },
    ),
    "bert-tiny": _bert(2, 128),
    "bert-mini": _bert(4, 256),
    "bert-small": _bert(4, 512),
}
