"""Models and optimizers of a config, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.config import Config, OptimConfig
from mlm_dist.model import architecture as architectures
from mlm_dist.model import build as building
from mlm_dist.spec import OptimSpec, RateSpec


def architecture(config: Config, tokenizer: Any = None, num_domain_tokens: int = 0) -> Any:
    """The transformers configuration of the config's model."""
    wanted = config.tokenizer.add_domain_tokens or 0
    return architectures.architecture(
        config.model, config.rows.max_length, tokenizer, num_domain_tokens, add_domain_tokens=wanted
    )


def build(config: Config, architecture: Any, domain_tokens: Mapping[int, Sequence[int]] | None = None) -> Any:
    """The config's model."""
    return building.build(config.model, architecture, config.seed, domain_tokens).model


def optim_spec(config: OptimConfig | None = None, **changes: Any) -> OptimSpec:
    """The optimizer of a config section, by default that of the default config, with some values changed."""
    section = config or OptimConfig()
    values = {item.name: getattr(section, item.name) for item in dataclasses.fields(section)}
    names = {item.name for item in dataclasses.fields(OptimSpec)}
    return OptimSpec(**{name: value for name, value in values.items() if name in names} | changes)


def rate_spec(config: OptimConfig | None = None, *, lr: float = 1e-3, **changes: Any) -> RateSpec:
    """The learning rate of a config section, by default that of the default config, with some values changed."""
    section = config or OptimConfig()
    return RateSpec(**{"peak": lr, "warmup": section.warmup, "schedule": section.schedule} | changes)
