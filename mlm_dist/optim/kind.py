"""What training needs to know about a kind of optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mlm_dist.spec import OptimSpec

# Parameter groups as torch's optimizers take them, with the keys of `parameter_groups.parameter_groups`.
Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class StateLayout:
    """The state that an optimizer keeps of a parameter between steps.

    Args:
        moments: Names of the tensors of the parameter's shape.
        step_count: Where steps are counted: in the state of each parameter, in each parameter group, or not at all.
    """

    moments: tuple[str, ...]
    step_count: Literal["parameter", "group", "none"]


@dataclass(frozen=True)
class OptimizerKind:
    """A kind of optimizer: an entry of the registry `optim.OPTIMIZERS`.

    Args:
        make: Makes the optimizer from parameter groups and the spec. Weight decay must be decoupled.
        layout: The state it keeps of each parameter.
        hidden_layout: The state it keeps of the matrices of hidden layers, if it treats them differently. They are then
            in groups of their own, with `hidden` set.
        shardings: What may shard its parameters. ZeRO gives it parts of all parameters, end to end, so its step must
            treat all numbers alike. FSDP2 gives it parts whose means and products are those of the whole tensor.
        package: The package it needs besides the dependencies of mlm_dist, as in `import package`.
    """

    make: Callable[[Groups, OptimSpec], torch.optim.Optimizer]
    layout: StateLayout
    hidden_layout: StateLayout | None = None
    shardings: tuple[Literal["zero", "fsdp2"], ...] = ("zero", "fsdp2")
    package: str | None = None

    def layout_of(self, *, hidden: bool) -> StateLayout:
        """The state of a parameter that is, or is not, a matrix of a hidden layer."""
        return self.hidden_layout if hidden and self.hidden_layout is not None else self.layout
