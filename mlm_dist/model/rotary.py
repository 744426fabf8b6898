"""The base of rotary angles (Su et al., 2021, https://arxiv.org/abs/2104.09864), which a phase of longer rows raises.

As in ABF (Xiong et al., 2023, https://arxiv.org/abs/2309.16039) and ModernBERT (Warner et al., 2024,
https://arxiv.org/abs/2412.13663, section 2.2): layers with sliding attention keep theirs, because their reach stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from mlm_dist.errors import ConfigError

KEY = "model.rope_theta"
_ANGLES = "inv_freq"  # in the names of buffers


def check(config: Any, theta: float | None, before: float | None) -> None:
    """Refuse a base for an architecture without rotary angles, and a phase that goes back without saying so.

    Args:
        config: A transformers configuration.
        theta: The base that a phase sets, if it sets one.
        before: That of the phase before.

    Raises:
        ConfigError: The phase cannot have it.
    """
    if theta is None and before is not None:
        raise ConfigError(f"{KEY}: the phase before sets {before:g}, which the weights are used to; set it here too")
    if theta is not None and not getattr(config, "rope_parameters", None):
        raise ConfigError(f"{KEY}: {config.model_type} models have no rotary positions; remove it")


def theta_of(config: Any) -> float | None:
    """The base of a transformers configuration; None without rotary angles."""
    parameters = getattr(config, "rope_parameters", None)
    return None if not parameters else float(_of_full_attention(parameters)["rope_theta"])


def theta_of_state(state: Mapping[str, Any]) -> float | None:
    """The base that a phase had set when a run's checkpoint was saved; None for the architecture's.

    Args:
        state: The content of its state.json.
    """
    theta = state["identity"]["phases"][len(state["phases"]) - 1].get(KEY)
    return None if theta is None else float(theta)


def set_theta_of_config(config: Any, theta: float | None) -> bool:
    """Change the base of a transformers configuration; whether it was another one. None keeps it."""
    if theta is None or theta == theta_of(config):
        return False
    parameters = copy.deepcopy(config.rope_parameters)
    _of_full_attention(parameters)["rope_theta"] = float(theta)
    config.rope_parameters = parameters
    return True


@torch.no_grad()
def set_theta(model: Any, theta: float | None) -> None:
    """Change the base of a transformers model, in its configuration and its buffers; None keeps it."""
    config = model.config
    if not set_theta_of_config(config, theta):
        return
    for module in model.modules():
        angles = {name: buffer for name, buffer in module.named_buffers(recurse=False) if _ANGLES in name}
        if angles:
            module.config = config
            computed = dict(type(module)(config).named_buffers())
            for name, buffer in angles.items():
                buffer.copy_(computed[name])


def _of_full_attention(parameters: dict[str, Any]) -> dict[str, Any]:
    """The part for layers with full attention, which is all of it where layers are alike."""
    by_kind = {kind: part for kind, part in parameters.items() if isinstance(part, dict)}
    found: dict[str, Any] = by_kind.get("full_attention", parameters) if by_kind else parameters
    return found
