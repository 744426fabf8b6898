"""AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101), fused."""

from __future__ import annotations

import torch

from mlm_dist.optim.kind import Groups, OptimizerKind, StateLayout
from mlm_dist.spec import OptimSpec


def make(groups: Groups, spec: OptimSpec) -> torch.optim.Optimizer:
    """See `OptimizerKind.make`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=spec.betas, eps=spec.eps, fused=True)


ADAMW = OptimizerKind(make=make, layout=StateLayout(("exp_avg", "exp_avg_sq"), "parameter"))
