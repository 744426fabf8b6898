"""Objectives: what a model learns, such as masked language modelling; other packages can register more.

`OBJECTIVES[name]` is a class with the method `create(phase, seed, corpus)` that returns an `Objective`; `phase` is the
`PhaseSpec`, and `corpus` has the tokenizer of all phases.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mlm_dist.config import BatchConfig, MaskingConfig
from mlm_dist.errors import ConfigError
from mlm_dist.registry import Registry

OBJECTIVES: Registry[Any] = Registry(
    "mlm_dist.objectives",
    {
        "masked_lm": "mlm_dist.objectives.masked_lm:MaskedLM",
        "causal_lm": "mlm_dist.objectives.causal_lm:CausalLM",
        "contrastive": "mlm_dist.objectives.contrastive:Contrastive",
        "contrastive_masked_lm": "mlm_dist.objectives.contrastive:ContrastiveMaskedLM",
    },
)

_OF_ONE_MODEL = {"masked_lm", "causal_lm", "contrastive", "contrastive_masked_lm"}


def check_batch(name: str, batch: BatchConfig) -> None:
    """Refuse a batch that an objective cannot have.

    Raises:
        ConfigError: Rows of pairs would be cut.
    """
    if is_contrastive(name) and batch.initial_length is not None:
        raise ConfigError(f"batch.initial_length: rows of {name} are pairs of texts, which cannot be cut; remove it")


def check(name: str) -> None:
    """Refuse an unknown objective.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: {name} is not known; choose from {', '.join(OBJECTIVES.names())}")


def check_together(names: Collection[str]) -> None:
    """Refuse objectives that do not share a model, as those of the phases of a run must.

    Raises:
        ConfigError: Names them.
    """
    several = dict.fromkeys(names)
    if len(several) > 1 and not several.keys() <= _OF_ONE_MODEL:
        raise ConfigError(
            f"phases: the objectives {', '.join(several)} do not share a model; those of the phases of a run must be "
            f"the same, or of {', '.join(sorted(_OF_ONE_MODEL))}"
        )


def is_causal(name: str) -> bool:
    """Whether the attention of an objective's training rows is causal, which not every architecture can be made."""
    return name == "causal_lm"


def predicted_fraction(name: str, masking: MaskingConfig) -> float:
    """The fraction of a row's positions that an objective predicts, at most."""
    if not predicts(name):
        return 0.0
    return masking.highest_probability if name in ("masked_lm", "contrastive_masked_lm") else 1.0


def predicts(name: str) -> bool:
    """Whether a model learns to predict tokens by an objective."""
    return name != "contrastive"


def is_contrastive(name: str) -> bool:
    """Whether an objective learns from pairs of texts, so that rows have mode pairs."""
    return name in ("contrastive", "contrastive_masked_lm")


def masks(name: str) -> bool:
    """Whether an objective masks tokens of training rows."""
    return name not in ("causal_lm", "contrastive")
