"""The engine for one process, DDP and FSDP2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from mlm_dist.engine import fsdp2, shards
from mlm_dist.engine.base import AccelerateEngine
from mlm_dist.engine.protocol import FullState, LossScale, StepOutcome
from mlm_dist.optim import optimizers


class TorchEngine(AccelerateEngine):
    """One process, DDP or FSDP2; see `protocol.Engine`."""

    _without_gradient: set[int] | None = None  # ids of trained parameters that had none in the first step

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """See `Engine`."""
        if self._accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
            loss_model: Any = module
            self._accelerator.ddp_handler = DistributedDataParallelKwargs(
                # Otherwise DDP waits for the gradients of parameters that never get one, such as a pooler's.
                find_unused_parameters=loss_model.has_unused(),
                # Gradients live in the buckets they are exchanged in, instead of being copied there and back.
                gradient_as_bucket_view=True,
                # Buffers are the same on all ranks and do not change: a model whose buffers do is refused.
                broadcast_buffers=False,
            )
        super().setup(module, optimizer)

    def finish_step(self) -> StepOutcome:
        """See `Engine`."""
        limit = float("inf") if self._max_grad_norm is None else self._max_grad_norm
        if self._without_gradient is None:
            parameters = self._module.parameters()
            self._without_gradient = {id(p) for p in parameters if p.requires_grad and p.grad is None}
        norm = _unsharded(self._accelerator.clip_grad_norm_(self.model.parameters(), limit))
        skipped = (~torch.isfinite(norm)).float()
        if self._accelerator.scaler is None:
            # The optimizer takes this as the verdict of a gradient scaler: it skips the step and does not count it. In
            # fp16 there is a scaler, which comes to the same verdict and tells the optimizer, or does not call it.
            self._optimizer.optimizer.found_inf = skipped
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepOutcome(norm, skipped)

    def moment_names(self) -> Mapping[str, tuple[str, ...]]:
        """See `Engine`."""
        inner = self._optimizer.optimizer
        names = {
            id(parameter): optimizers.state_layout(group).moments
            for group in inner.param_groups
            for parameter in group["params"]
        }
        return {name: names[id(p)] for name, p in self._named_parameters().items() if id(p) in names}

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        if self.is_sharded:
            fsdp2.reshard(self._module)
        return super()._named_parameters()

    def _full_parameter(self, parameter: nn.Parameter) -> torch.Tensor | None:
        return shards.gathered(parameter, is_main=self.is_main)

    def _set_parameter(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        parameter.copy_(shards.sharded_like(parameter, lambda rows: value[rows] if value.ndim else value))

    def _full_moment(self, parameter: nn.Parameter, key: str) -> torch.Tensor | None:
        value = self._optimizer.optimizer.state.get(parameter, {}).get(key)
        return shards.gathered(value, is_main=self.is_main)

    def _has_no_moments(self, parameter: nn.Parameter) -> bool:
        state = self._optimizer.optimizer.state
        return not state or (parameter not in state and id(parameter) in (self._without_gradient or ()))

    def load(self, state: FullState, example_loss: Callable[[], torch.Tensor]) -> None:
        """See `Engine`."""
        inner, parameters = self._optimizer.optimizer, self._named_parameters()
        for name, keys in self.moment_names().items():
            parameter = parameters[name]
            inner.state[parameter] = {
                key: shards.sharded_like(parameter, functools.partial(state.moments, key, name)) for key in keys
            }
        optimizers.set_step_count(inner, state.num_steps)
        if state.loss_scale is not None and self._accelerator.scaler is not None:
            settings = self._accelerator.scaler.state_dict()
            since = state.loss_scale[1] % settings["growth_interval"]
            self._accelerator.scaler.load_state_dict(
                settings | {"scale": state.loss_scale[0], "_growth_tracker": since}
            )

    @property
    def loss_scale(self) -> LossScale | None:
        """See `Engine`."""
        if self._accelerator.scaler is None:
            return None
        settings = self._accelerator.scaler.state_dict()
        return float(settings["scale"]), int(settings["_growth_tracker"])


def _unsharded(value: Any) -> torch.Tensor:
    """The whole of a tensor that FSDP2 may have sharded; collective."""
    whole: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole
