"""The optimizer, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from mlm_dist.config import OptimConfig

# From scratch the rate falls with the width, as in the maximal-update parametrisation (Yang et al., 2022): 3e-3 at 128
# hidden units, 5e-4 at 768.
SCRATCH_LR_TIMES_WIDTH = 0.384
CHECKPOINT_LR = 5e-5
WSD_DECAY_SHARE = 0.2


def peak_lr(config: OptimConfig, *, from_scratch: bool, hidden_size: int) -> float:
    """`optim.lr`, or its default for this model."""
    if config.lr is not None:
        return config.lr
    return SCRATCH_LR_TIMES_WIDTH / hidden_size if from_scratch else CHECKPOINT_LR


def warmup_updates(config: OptimConfig, num_updates: int) -> int:
    """`optim.warmup` in updates, at most all of them."""
    wanted = config.warmup * num_updates if config.warmup < 1 else config.warmup
    return min(math.ceil(wanted), num_updates)


def lr_at(step: int, config: OptimConfig, peak: float, num_updates: int) -> float:
    """The learning rate of update `step`, from 0.

    It rises linearly from peak / (warm-up + 1) to the peak, then follows `optim.schedule`; linear, cosine and wsd reach
    zero just after the last update.
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
            return peak * min(1.0, (1 - done) / WSD_DECAY_SHARE)


def build_optimizer(model: nn.Module, config: OptimConfig, peak: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) whose decay acts on matrices only: not on biases, nor on any norm's scale."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak, betas=config.betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next update; before the backward pass, because DeepSpeed updates inside of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
