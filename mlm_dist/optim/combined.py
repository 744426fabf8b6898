"""Several optimizers as one, which skips a step on request."""

from __future__ import annotations

from collections.abc import Callable

import torch


class CombinedOptimizer(torch.optim.Optimizer):
    """One or more optimizers as one, each with its own parameter groups.

    They use the parameter groups and the state of this object, also after a library has replaced those. As with a fused
    optimizer, `found_inf` over 0 skips the step. Reading it waits for the device once per step, because the combined
    optimizers cannot skip a step themselves.

    Args:
        parts: The optimizers.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.found_inf: torch.Tensor | None = None
        for number, part in enumerate(parts):
            for group in part.param_groups:
                group["part"] = number
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take the step of each part, unless `found_inf` is over 0."""
        assert closure is None
        if self.found_inf is not None and bool(self.found_inf):
            return
        for number, part in enumerate(self.parts):
            part.param_groups = [group for group in self.param_groups if group["part"] == number]
            part.state = self.state
            part.step()
