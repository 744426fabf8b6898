"""Calls of model and optim from jobs that still have the whole config; goes away with `resolve`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.config import Config, Duration
from mlm_dist.model import architecture as architectures
from mlm_dist.model import build as building
from mlm_dist.optim.schedule import default_lr
from mlm_dist.spec import OptimSpec


def architecture(config: Config, tokenizer: Any | None, num_domain_tokens: int = 0) -> Any:
    """See `model.architecture.architecture`."""
    name = config.tokenizer.path or ("the corpus" if config.tokenizer.train_vocab_size else "")
    wanted = config.tokenizer.add_domain_tokens or 0
    return architectures.architecture(
        config.model, config.rows.max_length, tokenizer, num_domain_tokens, name, add_domain_tokens=wanted
    )


def build(config: Config, architecture: Any, domain_tokens: Mapping[int, Sequence[int]] | None = None) -> Any:
    """See `model.build.build`."""
    return building.build(config.model, architecture, config.seed, domain_tokens)


def optim_spec(config: Config, *, lr: float | None = None, hidden_size: int = 0) -> OptimSpec:
    """The optimizer with a given peak learning rate, or that of the config, or the default one."""
    optim = {item.name: getattr(config.optim, item.name) for item in dataclasses.fields(config.optim)}
    optim["duration"] = Duration.parse(config.optim.duration)
    if lr is None:
        lr = config.optim.lr
    if lr is None:
        lr = default_lr(architectures.starts_from_scratch(config.model), hidden_size)
    return OptimSpec(**optim | {"lr": lr})
