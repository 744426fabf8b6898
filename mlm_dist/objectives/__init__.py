"""Objectives: what a model learns. Masked language modelling is one; other packages can register more.

`OBJECTIVES[name]` is a class with the method `create(masking, seed, corpus)` that returns an `Objective`.
"""

from __future__ import annotations

from typing import Any

from mlm_dist.errors import ConfigError
from mlm_dist.registry import Registry

OBJECTIVES: Registry[Any] = Registry(
    "mlm_dist.objectives",
    {"masked_lm": "mlm_dist.objectives.masked_lm:MaskedLM"},
)


def check(name: str) -> None:
    """Refuse an unknown objective.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: {name} is not known; choose from {', '.join(OBJECTIVES.names())}")
