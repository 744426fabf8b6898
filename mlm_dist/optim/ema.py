"""An exponential moving average (EMA) of the weights, kept in fp32 as one more moment of an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

EMA = "ema"  # the name of the moment


def decay_of(step: int, decay: float) -> float:
    """The decay of the average in a step, from 0; smaller in early steps, so that the initial weights soon leave it.

    min(decay, (1 + n) / (10 + n)) after n steps, as TensorFlow's ExponentialMovingAverage has it with a count of steps
    (https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage). n counts skipped steps too, so that
    it follows from the step.
    """
    num_steps = step + 1
    return min(decay, (1 + num_steps) / (10 + num_steps))


class ExponentialAverage:
    """Keeps the average of what an optimizer trains: average = decay x average + (1 - decay) x weights, after a step.

    It begins as the weights before the first step, and a step that `found_inf` skips leaves it as it is. It is computed
    from what the optimizer steps on: the fp32 weights, also where the model computes on a copy in 16 bits, and the
    shards of this rank where they are sharded.

    Args:
        optimizer: The optimizer; the average becomes a part of its state.
        decay: The decay after the first steps, under 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self._decay = decay
        self._initial: dict[torch.Tensor, torch.Tensor] = {}
        for group in optimizer.param_groups:
            layout = group["layout"]
            group["layout"] = dataclasses.replace(layout, moments=(*layout.moments, EMA))
            group["training_step"] = 0
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Not put into the state yet: optimizers create their moments where a parameter has no state.
        for parameter in _with_gradients(optimizer):
            if EMA not in optimizer.state.get(parameter, ()):
                self._initial[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter, value in self._initial.items():
            if optimizer.state.get(parameter):  # empty if the first step is skipped
                optimizer.state[parameter][EMA] = value
        self._initial.clear()
        found_inf: torch.Tensor | None = getattr(optimizer, "found_inf", None)
        for group in optimizer.param_groups:
            stepped = [one for one in group["params"] if one.grad is not None and EMA in optimizer.state.get(one, ())]
            if stepped:
                averages = [_local(optimizer.state[one][EMA]) for one in stepped]
                decay = decay_of(group["training_step"], self._decay)
                share = torch.full((), 1 - decay, device=averages[0].device)
                if found_inf is not None:  # read on the device, so that nothing waits for it
                    share = share * (1 - found_inf.to(share.device))
                torch._foreach_lerp_(averages, [_local(one) for one in stepped], [share] * len(stepped))


def _with_gradients(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None)


def _local(value: Any) -> torch.Tensor:
    """The shard of this rank of a tensor that FSDP2 may have sharded."""
    local: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value.detach()
    return local
