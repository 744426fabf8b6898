"""Objectives: what a model learns, masked or causal language modelling; other packages can register more.

`OBJECTIVES[name]` is a class with the method `create(masking, seed, corpus)` that returns an `Objective`.
"""

from __future__ import annotations

from typing import Any

from mlm_dist.config import MaskingConfig
from mlm_dist.errors import ConfigError
from mlm_dist.registry import Registry

OBJECTIVES: Registry[Any] = Registry(
    "mlm_dist.objectives",
    {
        "masked_lm": "mlm_dist.objectives.masked_lm:MaskedLM",
        "causal_lm": "mlm_dist.objectives.causal_lm:CausalLM",
    },
)


def check(name: str) -> None:
    """Refuse an unknown objective.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: {name} is not known; choose from {', '.join(OBJECTIVES.names())}")


def is_causal(name: str) -> bool:
    """Whether the attention of an objective's training rows is causal, which not every architecture can be made."""
    return name == "causal_lm"


def predicted_fraction(name: str, masking: MaskingConfig) -> float:
    """The fraction of a row's positions that an objective predicts, at most."""
    return masking.highest_probability if name == "masked_lm" else 1.0
