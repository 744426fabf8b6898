"""The specification of a run: what will happen, with every open value of the config decided.

`resolve.resolve` makes it from the config and the launch. What depends on the rows is decided once they are known, by
`resolve.complete`. Below the jobs each part takes its own section of it, or plain values.
"""

from __future__ import annotations

from mlm_dist.spec.batch import BatchSpec, largest_divisor
from mlm_dist.spec.corpus import CorpusSpec, RowMode, RowsSpec, SourceSpec, TokenizerKind, TokenizerSpec
from mlm_dist.spec.phase import Length, PhaseSpec, RateSpec, Schedule, describe_objective, num_steps
from mlm_dist.spec.run import Spec
from mlm_dist.spec.training import CheckpointSpec, ExportSpec, OptimSpec, ValidationSpec

__all__ = [
    "BatchSpec",
    "CheckpointSpec",
    "CorpusSpec",
    "ExportSpec",
    "Length",
    "OptimSpec",
    "PhaseSpec",
    "RateSpec",
    "RowMode",
    "RowsSpec",
    "Schedule",
    "SourceSpec",
    "Spec",
    "TokenizerKind",
    "TokenizerSpec",
    "ValidationSpec",
    "describe_objective",
    "largest_divisor",
    "num_steps",
]
