"""Which parameters the optimizer updates how, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from mlm_dist.config import OptimConfig
from mlm_dist.model.layers import depths, embedding_tables
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.optim import optimizers

# From scratch the rate falls with the width, as in the maximal-update parametrisation (Yang et al., 2022): 3e-3 at 128
# hidden units, 5e-4 at 768.
SCRATCH_LR_TIMES_WIDTH = 0.384
CHECKPOINT_LR = 5e-5
# Lion's steps are signs, longer than AdamW's: Chen et al., 2023, take rates 3 to 10 times smaller.
LION_SHARE = 0.2
WSD_DECAY_SHARE = 0.2


def peak_lr(config: OptimConfig, *, from_scratch: bool, hidden_size: int) -> float:
    """`optim.lr`, or its default for this model and optimizer."""
    if config.lr is not None:
        return config.lr
    adamw = SCRATCH_LR_TIMES_WIDTH / hidden_size if from_scratch else CHECKPOINT_LR
    return adamw * LION_SHARE if config.name == "lion" else adamw


def warmup_updates(config: OptimConfig, num_updates: int) -> int:
    """`optim.warmup` in updates, at most all of them."""
    wanted = config.warmup * num_updates if config.warmup < 1 else config.warmup
    return min(math.ceil(wanted), num_updates)


def lr_at(step: int, config: OptimConfig, peak: float, num_updates: int) -> float:
    """The learning rate of update `step`, from 0.

    It rises linearly from peak / (warm-up + 1) to the peak, then follows `optim.schedule`; linear, cosine and wsd reach
    zero just after the last update. The fall of wsd is 1 - sqrt of its own progress, the best of those that Hägele et
    al., 2024 (https://arxiv.org/abs/2405.18392) compare.
    """
    warmup = warmup_updates(config, num_updates)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(num_updates - warmup, 1)  # in [0, 1)
    match config.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            return peak * (1 - math.sqrt(max(0.0, 1 - (1 - done) / WSD_DECAY_SHARE)))


def build_optimizer(model: MaskedLanguageModel, config: OptimConfig, peak: float) -> torch.optim.Optimizer:
    """The optimizer of `optim.name` for the parameters that are trained.

    Decay acts on matrices only: not on biases, nor on any norm's scale. With `optim.layer_lr_decay` the rate of each
    layer is that share of the rate above it, the head having the full one, as in ELECTRA (Clark et al., 2020,
    https://arxiv.org/abs/2003.10555).

    Args:
        model: The model, not wrapped yet.
        config: The optimizer.
        peak: The learning rate.

    Raises:
        ModelError: Layers have to be told apart, and none are found.
    """
    return optimizers.make(config, _groups(model, config), peak)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next update; before the backward pass, because DeepSpeed updates inside of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_share"]


def _groups(model: MaskedLanguageModel, config: OptimConfig) -> optimizers.Groups:
    """The trained parameters by learning rate, decay, and whether they are matrices of hidden layers, for muon."""
    differ, muon = config.layer_lr_decay != 1.0, config.name == "muon"
    depth: dict[str, int] = depths(model.model) if differ or muon else {}
    top, tables = max(depth.values(), default=0), embedding_tables(model)
    parts: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.model.named_parameters():
        if parameter.requires_grad:
            at = depth.get(name, top)
            hidden = muon and 0 < at < top and parameter.ndim == 2 and id(parameter) not in tables
            parts.setdefault((at if differ else top, parameter.ndim <= 1, hidden), []).append(parameter)
    return [
        {
            "params": parts[key],
            "weight_decay": 0.0 if is_vector else config.weight_decay,
            "lr_share": config.layer_lr_decay ** (top - at),
            "hidden": hidden,
        }
        for key in sorted(parts)
        for at, is_vector, hidden in [key]
    ]
