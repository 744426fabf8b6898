"""Muon for the matrices of hidden layers, AdamW for all other parameters.

Muon orthogonalizes the momentum of each matrix (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). Its
steps are scaled to the size of AdamW's, so that both use one learning rate (Liu et al., 2025,
https://arxiv.org/abs/2502.16982).
"""

from __future__ import annotations

import torch

from mlm_dist.optim import adamw
from mlm_dist.optim.combined import CombinedOptimizer
from mlm_dist.optim.kind import Groups, OptimizerKind, StateLayout
from mlm_dist.spec import OptimSpec


def make(groups: Groups, spec: OptimSpec) -> torch.optim.Optimizer:
    """See `OptimizerKind.make`."""
    hidden = [group for group in groups if group["hidden"]]
    others = [group for group in groups if not group["hidden"]]
    muon = torch.optim.Muon(hidden, lr=0.0, adjust_lr_fn="match_rms_adamw")
    return CombinedOptimizer(muon, adamw.make(others, spec))


MUON = OptimizerKind(
    make=make,
    layout=adamw.ADAMW.layout,
    hidden_layout=StateLayout(("momentum_buffer",), "none"),
    shardings=("fsdp2",),
)
