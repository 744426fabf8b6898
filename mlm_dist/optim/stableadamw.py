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

    class ShardedStableAdamW(StableAdamW):
        """With a mean over all of a tensor that FSDP2 shards: the library's operation in place has none."""

        @staticmethod
        def get_stable_adamw_rms(grad: torch.Tensor, exp_avg_sq: torch.Tensor, eps: float = 1e-16) -> torch.Tensor:
            return grad.pow(2).div_(exp_avg_sq.clip(min=eps)).mean().sqrt().clip(min=1.0)

    betas: Any = spec.betas
    return ShardedStableAdamW(groups, lr=0.0, betas=betas, eps=spec.eps, kahan_sum=False)


STABLEADAMW = OptimizerKind(
    make=make,
    layout=StateLayout(("exp_avg", "exp_avg_sq"), "group"),
    shardings=("fsdp2",),
    package="pytorch_optimizer",
)
