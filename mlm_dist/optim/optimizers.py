"""The optimizers that `optim.name` can name."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from typing import Any

import torch

from mlm_dist.errors import ConfigError
from mlm_dist.optim import OPTIMIZERS
from mlm_dist.optim.combined import CombinedOptimizer
from mlm_dist.optim.ema import ExponentialAverage
from mlm_dist.optim.kind import StateLayout
from mlm_dist.optim.parameter_groups import parameter_groups
from mlm_dist.spec import OptimSpec

__all__ = [
    "OPTIMIZERS",
    "build_optimizer",
    "check_name",
    "missing_package",
    "moment_bytes",
    "set_step",
    "set_step_count",
    "state_layout",
]


def check_name(name: str) -> None:
    """Refuse a name that is not registered.

    Raises:
        ConfigError: The message lists the names to choose from.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optim.name: {name} is not an optimizer; choose from {', '.join(OPTIMIZERS.names())}")


def missing_package(name: str) -> str | None:
    """The package that an optimizer needs and that is not installed; None if there is none."""
    package = OPTIMIZERS[name].package
    return package if package is not None and importlib.util.find_spec(package) is None else None


def moment_bytes(name: str, num_parameters: int, num_hidden: int, *, ema: bool = False) -> int:
    """Bytes of an optimizer's moments in fp32.

    Args:
        name: The optimizer.
        num_parameters: Number of trained parameters.
        num_hidden: Those of them in matrices of hidden layers.
        ema: Whether it keeps an exponential moving average of the weights.
    """
    per_parameter, per_hidden = (
        len(OPTIMIZERS[name].layout_of(hidden=hidden).moments) + ema for hidden in (False, True)
    )
    return 4 * (per_parameter * (num_parameters - num_hidden) + per_hidden * num_hidden)


def build_optimizer(module: Any, spec: OptimSpec, frozen: Sequence[Collection[str]] = ()) -> torch.optim.Optimizer:
    """The optimizer of the parameters that need gradients; it skips its step if `found_inf` is set over 0.

    With `ema_decay` it keeps an average of the weights as one more moment, see `ema.ExponentialAverage`.

    Weight decay acts on matrices only: not on biases, nor on the scales of norms. With `layer_lr_decay` the learning
    rate of each layer is this fraction of the one above it, and the head has the full rate, as in ELECTRA (Clark et
    al., 2020, https://arxiv.org/abs/2003.10555).

    Args:
        module: The objective's module around a transformers model, not wrapped yet.
        spec: The optimizer.
        frozen: For each phase, the names in the transformers model of the parameters that keep their values.

    Raises:
        ModelError: The spec treats layers differently, and the model keeps no list of layers.
    """
    kind = OPTIMIZERS[spec.name]
    groups = parameter_groups(
        module,
        weight_decay=spec.weight_decay,
        layer_lr_decay=spec.layer_lr_decay,
        separate_hidden=kind.hidden_layout is not None,
        frozen=frozen,
    )
    for group in groups:
        group["layout"] = kind.layout_of(hidden=group["hidden"])
    optimizer = kind.make(groups, spec)
    can_skip = isinstance(optimizer, CombinedOptimizer) or getattr(optimizer, "_step_supports_amp_scaling", False)
    optimizer = optimizer if can_skip else CombinedOptimizer(optimizer)
    if spec.ema_decay is not None:
        ExponentialAverage(optimizer, spec.ema_decay)
    return optimizer


def set_step(optimizer: torch.optim.Optimizer, step: int, lr: float, phase: int = 0) -> None:
    """Set the next step and its learning rate; call it before the backward pass, in which DeepSpeed takes the step.

    What a phase freezes has a rate of 0, so that it keeps its values. Its moments go on, and its gradients count in the
    norm that is clipped.

    Args:
        optimizer: The optimizer.
        step: Steps done before it.
        lr: The learning rate of the head.
        phase: The number of the phase, from 0.
    """
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if phase in group["frozen_in"] else lr * group["lr_factor"]
        group["training_step"] = step


def state_layout(group: dict[str, Any]) -> StateLayout:
    """The state that an optimizer keeps of the parameters of a group."""
    layout: StateLayout = group["layout"]
    return layout


def set_step_count(optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    """Set the number of steps that the moments come from."""
    for group in optimizer.param_groups:
        match state_layout(group).step_count:
            case "parameter":
                for parameter in group["params"]:
                    optimizer.state[parameter]["step"] = torch.tensor(float(num_steps), device=parameter.device)
            case "group":
                group["step"] = num_steps
