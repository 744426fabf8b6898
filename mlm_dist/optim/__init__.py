"""Optimizers, parameter groups and the learning-rate schedule.

`OPTIMIZERS` holds what `optim.name` can name, see `kind.OptimizerKind`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlm_dist.registry import Registry

if TYPE_CHECKING:
    from mlm_dist.optim.kind import OptimizerKind

OPTIMIZERS: Registry[OptimizerKind] = Registry(
    "mlm_dist.optimizers",
    {
        "adamw": "mlm_dist.optim.adamw:ADAMW",
        "stableadamw": "mlm_dist.optim.stableadamw:STABLEADAMW",
        "muon": "mlm_dist.optim.muon:MUON",
    },
)
