"""The engine for DeepSpeed's ZeRO stages 1 to 3; the only module that imports deepspeed, and only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin
from deepspeed import ops
from torch import nn
from transformers.integrations import unset_hf_deepspeed_config

from mlm_dist.engine import conflicts, memory
from mlm_dist.engine.base import AccelerateEngine
from mlm_dist.engine.protocol import FullState, LossScale, StepOutcome
from mlm_dist.optim import optimizers
from mlm_dist.spec import BatchSpec

# How ZeRO exchanges gradients and weights. With DeepSpeed's default bucket of 500 million elements a model of BERT's
# size is one bucket, sent after the backward pass; with these it is several, sent during the backward pass.
_EXCHANGE = {
    "overlap_comm": True,
    "contiguous_gradients": True,
    "reduce_bucket_size": memory.BUCKET,
    "allgather_bucket_size": memory.BUCKET,
    "stage3_prefetch_bucket_size": memory.BUCKET,
}
_FROZEN = "mlm_dist_frozen"  # attribute in which a parameter that is not trained keeps its fp32 values


def plugin(batch: BatchSpec, max_grad_norm: float | None) -> DeepSpeedPlugin:
    """Accelerate's plugin with the batch, accumulation and clipping of the run; its defaults are 1, 1 and 1.0."""
    # DeepSpeed would compile an operator for inference on CPUs. Training does not use it, the build takes up to a
    # minute, and if it is killed, all later runs wait for its lock.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    made = DeepSpeedPlugin()
    settings = made.deepspeed_config
    settings.update({name: value for name, (_, value) in conflicts.deepspeed_settings(batch, max_grad_norm).items()})
    # A DeepSpeed JSON keeps what it sets. So does bf16's check_grad_overflow, on by default: without it ZeRO applies
    # gradients that are not finite.
    zero = settings.setdefault("zero_optimization", {})
    for name, value in _EXCHANGE.items():
        zero.setdefault(name, value)
    settings.setdefault("zero_allow_untested_optimizer", True)
    settings.setdefault("zero_force_ds_cpu_optimizer", False)
    made.zero3_init_flag = False  # every rank makes the weights from the seed; they are sharded afterwards
    return made


class DeepSpeedEngine(AccelerateEngine):
    """ZeRO-1, 2 or 3; see `protocol.Engine`. DeepSpeed steps inside the last backward pass of a step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Otherwise transformers would shard every model that is made from here on.
        unset_hf_deepspeed_config()

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self._accelerator.state.deepspeed_plugin.deepspeed_config
        return settings

    def set_batch(self, batch: BatchSpec) -> None:
        """See `Engine`."""
        super().set_batch(batch)
        self._settings["train_micro_batch_size_per_gpu"] = batch.micro_size
        self._settings["gradient_accumulation_steps"] = batch.accumulation

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """See `Engine`."""
        # DeepSpeed keeps fp32 values of what it trains only, and rounds other parameters to its own precision.
        for parameter in module.parameters():
            if not parameter.requires_grad:
                setattr(parameter, _FROZEN, parameter.detach().to("cpu", torch.float32, copy=True))
        super().setup(module, optimizer)

    def begin_step(self, step: int, lr: float, num_micro_batches: int) -> float:
        """See `Engine`."""
        super().begin_step(step, lr, num_micro_batches)
        # DeepSpeed divides by the accumulation it was set up with, whatever this step has.
        return float(self.world_size * int(self._settings["gradient_accumulation_steps"]))

    def finish_step(self) -> StepOutcome:
        """See `Engine`."""
        norm = torch.as_tensor(self.model.get_global_grad_norm() or 0.0)
        return StepOutcome(norm, torch.tensor(float(self._accelerator.optimizer_step_was_skipped)))

    def moment_names(self) -> Mapping[str, tuple[str, ...]]:
        """See `Engine`."""
        # Its groups hold parts of all parameters, end to end, so only optimizers that treat all alike work on them.
        inner = self._optimizer.optimizer.optimizer
        names = optimizers.state_layout(inner.param_groups[0]).moments
        return {name: names for name, parameter in self._module.named_parameters() if parameter.requires_grad}

    def _full_parameter(self, parameter: nn.Parameter) -> torch.Tensor | None:
        from deepspeed.utils import safe_get_full_fp32_param

        frozen: torch.Tensor | None = getattr(parameter, _FROZEN, None)
        value: torch.Tensor | None = safe_get_full_fp32_param(parameter) if frozen is None else frozen
        return value

    def _set_parameter(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)
        # The forward pass reads a copy in the precision of the run, which ZeRO-3 shards.
        with GatheredParameters(parameter, modifier_rank=0):
            parameter.data.copy_(value)

    def _full_moment(self, parameter: nn.Parameter, key: str) -> torch.Tensor | None:
        from deepspeed.utils import safe_get_full_optimizer_state

        value: torch.Tensor | None = safe_get_full_optimizer_state(parameter, key)
        return value

    def _has_no_moments(self, parameter: nn.Parameter) -> bool:
        return not self._link_moments()

    def load(self, state: FullState, example_loss: Callable[[], torch.Tensor]) -> None:
        """See `Engine`."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._create_moments(example_loss)
        parameters = dict(self._module.named_parameters())
        self._link_moments()
        for name, keys in self.moment_names().items():
            safe_set_full_fp32_param(parameters[name], state.weights(name))  # copies what this rank holds
            for key in keys:
                safe_set_full_optimizer_state(parameters[name], state.moments(key, name, slice(None)), key)
        for values in self._optimizer.optimizer.optimizer.state.values():
            if "step" in values:
                step = torch.as_tensor(values["step"], dtype=torch.float32)
                values["step"] = torch.full_like(step, state.num_steps)
        if state.loss_scale is not None:
            scaler = self._optimizer.optimizer.loss_scaler
            scaler.cur_scale = state.loss_scale[0]
            if hasattr(scaler, "cur_iter"):  # a fixed scale counts nothing
                scaler.last_overflow_iter = scaler.cur_iter - state.loss_scale[1]

    @property
    def loss_scale(self) -> LossScale | None:
        """See `Engine`."""
        if self._settings.get("fp16", {}).get("enabled") is not True:
            return None
        scaler = self._optimizer.optimizer.loss_scaler
        since = scaler.cur_iter - scaler.last_overflow_iter if hasattr(scaler, "cur_iter") else 0
        return float(scaler.cur_scale), int(since)

    def _destroy_process_group(self) -> None:
        from deepspeed import comm

        comm.destroy_process_group()  # DeepSpeed forgets the groups that it made of it, too

    def _create_moments(self, example_loss: Callable[[], torch.Tensor]) -> None:
        """Take one step along gradients of zero at a learning rate of zero: DeepSpeed creates its moments then."""
        accumulation = int(self._settings["gradient_accumulation_steps"])
        self.begin_step(0, 0.0, accumulation)
        for _ in range(accumulation):
            with self.micro_batch():
                self.backward(example_loss() * 0.0)

    def _link_moments(self) -> bool:
        """Let every parameter know where its moments are; False while there are none.

        ZeRO-1 and 2 do so after the first step of the first parameter group, when the other groups have none yet.
        """
        sharded = self._optimizer.optimizer
        if not sharded.optimizer.state:
            return False
        if hasattr(sharded, "_lazy_init_hp_params_optimizer_state"):
            sharded._hp_optimizer_states_linked = False
            sharded._lazy_init_hp_params_optimizer_state()
        return True
