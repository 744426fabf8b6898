"""AdamW with shorter steps for tensors whose gradients are larger than their moments predict, as in Adafactor.

Wortsman et al., 2023, https://arxiv.org/abs/2304.13013.
"""

from __future__ import annotations

from typing import Any

import torch

from mlm_dist.optim.kind import Groups, OptimizerKind, StateLayout
from mlm_dist.spec import OptimSpec


def make(groups: Groups, spec: OptimSpec) -> torch.optim.Optimizer:
    """See `OptimizerKind.make`."""
    from pytorch_optimizer import StableAdamW

    betas: Any = spec.betas
    return StableAdamW(groups, lr=spec.lr, betas=betas, eps=spec.eps, kahan_sum=False)


STABLEADAMW = OptimizerKind(
    make=make,
    layout=StateLayout(("exp_avg", "exp_avg_sq"), "group"),
    needs_whole_tensors=True,
    package="pytorch_optimizer",
)
