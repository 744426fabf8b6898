"""Processes, devices and sharding; the only file that knows DeepSpeed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous
from transformers.integrations import unset_hf_deepspeed_config

from mlm_dist.batches.global_batch import BatchPlan
from mlm_dist.batches.loader import MicroBatch
from mlm_dist.config import Config
from mlm_dist.engine import conflicts, cpu, memory, topology
from mlm_dist.errors import ConfigError, PeerError, UserError
from mlm_dist.model.masked_lm import has_unused
from mlm_dist.optim import optimizers
from mlm_dist.training import trackers

# How ZeRO exchanges gradients and weights. In buckets of DeepSpeed's own 500 million elements a model of BERT's size is
# one bucket, sent when the backward pass has ended; in these it is several, sent while it goes on.
_EXCHANGE = {
    "overlap_comm": True,
    "contiguous_gradients": True,
    "reduce_bucket_size": memory.BUCKET,
    "allgather_bucket_size": memory.BUCKET,
    "stage3_prefetch_bucket_size": memory.BUCKET,
}

_FROZEN = "mlm_dist_frozen"  # where a parameter that is not trained keeps its fp32 values under DeepSpeed


def check(config: Config, plan: BatchPlan) -> None:
    """Refuse a launch that cannot work here, before anything is prepared.

    Raises:
        ConfigError: A tracker cannot be used, or run config, accelerate file, DeepSpeed JSON and this machine
            contradict each other.
    """
    trackers.check(config.tracking.trackers)
    conflicts.check(config, plan, topology.read())


def start(config: Config, plan: BatchPlan) -> Accelerator:
    """Join the processes of this launch, on the devices and with the precision that the accelerate file names.

    Raises:
        ConfigError: Fewer processes joined than were launched.
    """
    on_cpu = topology.on_cpu()
    deepspeed = topology.asked_for("ACCELERATE_USE_DEEPSPEED")
    if "MASTER_PORT" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
        # accelerate's launcher sets the address for several processes, but starts one where its file is for one.
        warnings.warn(
            "accelerate launch was asked for several processes but started one; for several on the CPU use "
            "--config_file configs/accelerate/cpu_2.yaml --num_processes N",
            stacklevel=2,
        )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        cpu.settle()
    # The window is ours: accelerate must end it where we say, not where an environment variable does.
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        deepspeed_plugin=_deepspeed_plugin(config, plan) if deepspeed else None,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=plan.accumulation, sync_with_dataloader=False, adjust_scheduler=False
        ),
        kwargs_handlers=[
            InitProcessGroupKwargs(
                # DeepSpeed finds no backend by itself where there is no GPU.
                **({"backend": "gloo"} if on_cpu and deepspeed else {}),
                init_method=_rendezvous(),
            )
        ],
        log_with=trackers.chosen(config) or None,
        project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=config.output_dir),
        step_scheduler_with_optimizer=False,
    )
    if deepspeed:
        # Else transformers would shard every model it makes from here on, while each process makes one for itself.
        unset_hf_deepspeed_config()
    if accelerator.num_processes != world_size:
        raise ConfigError(
            f"{world_size} processes were launched, but each trains alone ({accelerator.num_processes} joined); check "
            "distributed_type and use_cpu in the accelerate file"
        )
    return accelerator


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Place, wrap and shard an ordinary model and its optimizer as the accelerate file says."""
    if accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            # Else DDP waits for the gradients of parameters that never get one, such as a pooler's.
            find_unused_parameters=has_unused(model),
            # Gradients live in the buckets they are exchanged in, rather than being copied there and back.
            gradient_as_bucket_view=True,
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # It keeps fp32 values of what it updates only, and rounds the others to its own precision.
        for parameter in model.parameters():
            if not parameter.requires_grad:
                setattr(parameter, _FROZEN, parameter.detach().to("cpu", torch.float32, copy=True))
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds the whole model and its optimizer."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def set_window(accelerator: Accelerator, plan: BatchPlan) -> None:
    """Make an update at most as many micro-batches, of as many rows, as a plan says; before `prepare`."""
    accelerator.gradient_accumulation_steps = plan.accumulation
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = {"train_micro_batch_size_per_gpu": plan.micro_size, "gradient_accumulation_steps": plan.accumulation}
        accelerator.state.deepspeed_plugin.deepspeed_config.update(settings)


def begin_window(accelerator: Accelerator, num_micro_batches: int) -> int:
    """Make the next update so many micro-batches; returns by what the loss of each will be divided."""
    accelerator.step = 0
    accelerator.gradient_accumulation_steps = num_micro_batches
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # which divides by what it was told in the beginning
        return int(accelerator.state.deepspeed_plugin.deepspeed_config["gradient_accumulation_steps"])
    return num_micro_batches


def describe(accelerator: Accelerator) -> str:
    """Processes, sharding, device and precision, for people."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        offload = plugin.deepspeed_config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
        sharding = f"ZeRO-{plugin.zero_stage}" + (f", offload to {offload}" if offload not in ("none", None) else "")
    else:
        sharding = {DistributedType.NO: "no sharding", DistributedType.FSDP: "FSDP2"}.get(kind, "DDP")
    count = f"{accelerator.num_processes} process" + ("es" if accelerator.num_processes > 1 else "")
    return f"{count} on {accelerator.device.type}, {sharding}, precision {precision(accelerator)}"


def precision(accelerator: Accelerator) -> str:
    """fp32, bf16 or fp16: what the matrix products are computed in."""
    name = accelerator.mixed_precision
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        enabled = [kind for kind in ("bf16", "fp16") if settings.get(kind, {}).get("enabled") is True]
        name = enabled[0] if enabled else "no"
    return "fp32" if name == "no" else str(name)


def clip_and_measure(accelerator: Accelerator, model: Any, max_norm: float | None) -> torch.Tensor | None:
    """Scale the gradients down to `max_norm` and return their norm before that; None where DeepSpeed does it itself."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return None
    limit = float("inf") if max_norm is None else max_norm
    norm: Any = accelerator.clip_grad_norm_(model.parameters(), limit)
    whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP2's sharded tensors
    return whole


def grad_norm_of_last_step(model: Any) -> torch.Tensor:
    """The norm before clipping that DeepSpeed kept of its last update."""
    return torch.as_tensor(model.get_global_grad_norm() or 0.0)


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Do something on the main process alone, and fail on all of them if it fails; a collective.

    Raises:
        ConfigError: The run directory cannot be written to; or what `work` raised, if it was the user's mistake.
        PeerError: The same, on the other processes.
    """
    failure: UserError | None = None
    if accelerator.is_main_process:
        try:
            work()
        except UserError as error:
            failure = error
        except OSError as error:
            where = f"{error.filename} " if error.filename else ""
            failure = ConfigError(
                f"output_dir: cannot write {where}({error.strerror}); make room or name another folder"
            )
    failed = torch.tensor(float(failure is not None), device=accelerator.device)
    if float(accelerator.reduce(failed, "sum")):
        raise failure or PeerError("rank 0 failed, and says why")


def full_parameters(accelerator: Accelerator, core: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, fp32 values on the CPU) of every parameter, one at a time, whatever it is sharded over.

    A collective: call it on every process and go through all of it. Values come from the fp32 master weights where
    there are any.

    Args:
        accelerator: The processes.
        core: The model as it was before `prepare`.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from deepspeed.utils import safe_get_full_fp32_param
    for name, parameter in core.named_parameters():
        value: torch.Tensor | None = getattr(parameter, _FROZEN, None)
        if accelerator.distributed_type == DistributedType.DEEPSPEED and value is None:
            value = safe_get_full_fp32_param(parameter)
        elif hasattr(parameter, "full_tensor"):  # FSDP2's sharded tensors
            value = parameter.full_tensor()
        yield name, (parameter if value is None else value).detach().to("cpu", torch.float32)


def full_shapes(core: nn.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every parameter as it is when it is not sharded."""
    return {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in core.named_parameters()}


def moments_of(accelerator: Accelerator, core: nn.Module, optimizer: Any) -> dict[str, tuple[str, ...]]:
    """{parameter: names of its moments}, of what a prepared optimizer updates."""
    inner = _inner(accelerator, optimizer)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # In its groups there are parts of all parameters, laid end to end; only optimizers that treat all alike can
        # work on these.
        alike = optimizers.state_layout(inner.param_groups[0]).moments
        return {name: alike for name, parameter in core.named_parameters() if parameter.requires_grad}
    found = {
        id(parameter): optimizers.state_layout(group).moments
        for group in inner.param_groups
        for parameter in group["params"]
    }
    return {name: found[id(parameter)] for name, parameter in core.named_parameters() if id(parameter) in found}


def full_moments(accelerator: Accelerator, core: nn.Module, optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """("key/name", fp32 values on the CPU) of every moment of every parameter; a collective, as `full_parameters`.

    Before the first update there are no moments; zeros stand for them, as the optimizer would start from them.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from deepspeed.utils import safe_get_full_optimizer_state

        has_moments = _link_moments(optimizer)
    shapes, parameters = full_shapes(core), dict(core.named_parameters())
    for name, keys in moments_of(accelerator, core, optimizer).items():
        parameter = parameters[name]
        for key in keys:
            if accelerator.distributed_type == DistributedType.DEEPSPEED:
                value = safe_get_full_optimizer_state(parameter, key) if has_moments else None
            else:
                value = optimizer.optimizer.state.get(parameter, {}).get(key)
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
            if value is None:
                value = torch.zeros(shapes[name])
            yield f"{key}/{name}", value.detach().to("cpu", torch.float32)


def set_full_state(
    accelerator: Accelerator,
    core: nn.Module,
    optimizer: Any,
    *,
    weights: Callable[[str], torch.Tensor],
    moments: Callable[[str, str], torch.Tensor],
    num_steps: int,
    loss_scale: tuple[float, int] | None,
) -> None:
    """Put weights and moments where a prepared optimizer keeps them, whatever it is sharded over; a collective.

    Args:
        accelerator: The processes.
        core: The model as it was before it was prepared; it already holds these weights, rounded where it is not fp32.
        optimizer: The prepared optimizer, which has updated nothing yet. DeepSpeed's must have been woken, see `wake`.
        weights: Name -> fp32 values.
        moments: (key, name) -> fp32 values.
        num_steps: Updates the moments come from.
        loss_scale: fp16's scale and the updates since it last changed.
    """
    inner, parameters = _inner(accelerator, optimizer), dict(core.named_parameters())
    kept = moments_of(accelerator, core, optimizer)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        device = accelerator.device
        _link_moments(optimizer)
        for name, keys in kept.items():
            safe_set_full_fp32_param(parameters[name], weights(name).to(device))
            for key in keys:
                safe_set_full_optimizer_state(parameters[name], moments(key, name).to(device), key)
        for state in inner.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"], dtype=torch.float32), num_steps)
        if loss_scale is not None:
            scaler = optimizer.optimizer.loss_scaler
            scaler.cur_scale = loss_scale[0]
            if hasattr(scaler, "cur_iter"):  # a fixed scale counts nothing
                scaler.last_overflow_iter = scaler.cur_iter - loss_scale[1]
        return
    for name, keys in kept.items():
        parameter = parameters[name]
        state = {key: moments(key, name) for key in keys}
        if hasattr(parameter, "full_tensor"):  # FSDP2's sharded tensors
            from torch.distributed.tensor import distribute_tensor

            sharded: Any = parameter
            mesh, places = sharded.device_mesh, sharded.placements
            state = {key: distribute_tensor(value.to(mesh.device_type), mesh, places) for key, value in state.items()}
        inner.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
    optimizers.set_step_count(inner, num_steps)
    if loss_scale is not None and accelerator.scaler is not None:
        settings = accelerator.scaler.state_dict()
        since = loss_scale[1] % settings["growth_interval"]
        accelerator.scaler.load_state_dict(settings | {"scale": loss_scale[0], "_growth_tracker": since})


def wake(accelerator: Accelerator, model: Any, window: Sequence[MicroBatch]) -> None:
    """Make DeepSpeed create its moments: one update along gradients of zero. Other optimizers need none.

    The learning rate must have been set to zero, so that weight decay moves nothing either.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    begin_window(accelerator, len(window))
    for micro in window:
        batch = micro.to(accelerator.device)
        with accelerator.accumulate(model):
            loss = model(*batch.inputs).loss_sum
            accelerator.backward(loss * 0.0)


def loss_scale_of(accelerator: Accelerator, optimizer: Any) -> tuple[float, int] | None:
    """fp16's scale and the updates since it last changed; None in other precisions."""
    if precision(accelerator) != "fp16":
        return None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        scaler = optimizer.optimizer.loss_scaler
        since = scaler.cur_iter - scaler.last_overflow_iter if hasattr(scaler, "cur_iter") else 0
        return float(scaler.cur_scale), int(since)
    if accelerator.scaler is None:
        return None
    settings = accelerator.scaler.state_dict()
    return float(settings["scale"]), int(settings["_growth_tracker"])


def leave_out_if_not_finite(accelerator: Accelerator, optimizer: Any, grad_norm: torch.Tensor) -> torch.Tensor | None:
    """Make the coming update leave the weights alone if the gradient's norm is not finite, without asking the device.

    Returns:
        1.0 where the update will be left out, else 0.0; None where DeepSpeed decides, and `was_left_out` knows
        afterwards.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return None
    flag = (~torch.isfinite(grad_norm)).float()
    if accelerator.scaler is None:
        # The optimizer takes this as a scaler's verdict: it skips the update and does not count the step. In fp16 there
        # is a scaler, which comes to the same verdict and tells the optimizer, or does not call it.
        optimizer.optimizer.found_inf = flag
    return flag


def was_left_out(accelerator: Accelerator) -> torch.Tensor:
    """1.0 where DeepSpeed left the last update out."""
    return torch.tensor(float(accelerator.optimizer_step_was_skipped))


def _inner(accelerator: Accelerator, optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that a prepared one was made from."""
    wrapped = optimizer.optimizer
    inner: torch.optim.Optimizer = wrapped
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        inner = wrapped.optimizer
    return inner


def _link_moments(optimizer: Any) -> bool:
    """Let every parameter know where DeepSpeed keeps its moments; False while there are none.

    ZeRO-1 and 2 do so themselves, but after the first parameter group's first update, when the others have none yet.
    """
    sharded = optimizer.optimizer
    if not sharded.optimizer.state:
        return False
    if hasattr(sharded, "_lazy_init_hp_params_optimizer_state"):
        sharded._hp_optimizer_states_linked = False
        sharded._lazy_init_hp_params_optimizer_state()
    return True


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose numbers a checkpoint holds."""
    names = ("accelerate", "transformers", "deepspeed")
    return {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name) is not None}


def _deepspeed_plugin(config: Config, plan: BatchPlan) -> DeepSpeedPlugin:
    """The plugin with our batch, accumulation and clipping in it: left to itself it takes 1, 1 and 1.0."""
    plugin = DeepSpeedPlugin()
    plugin.deepspeed_config.update(
        {name: ours for name, (_, ours) in conflicts.deepspeed_settings(config, plan).items()}
    )
    # What a DeepSpeed JSON says stays. So does bf16's check_grad_overflow, on by default: without it ZeRO takes in
    # gradients that are not finite.
    zero = plugin.deepspeed_config.setdefault("zero_optimization", {})
    for name, value in _EXCHANGE.items():
        zero.setdefault(name, value)
    plugin.deepspeed_config.setdefault("zero_allow_untested_optimizer", True)
    plugin.deepspeed_config.setdefault("zero_force_ds_cpu_optimizer", False)
    plugin.zero3_init_flag = False  # the seed makes the weights on every process; they are sharded afterwards
    return plugin


def _rendezvous() -> str | None:
    """How the processes find each other: as the launcher says, but never by what they left before a restart.

    A launcher that restarts lost processes may keep its store, and in it the addresses of those that are gone.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0":
        return None

    def meet(url: str, **given: Any) -> Iterator[tuple[Store, int, int]]:
        store, rank, world_size = next(rendezvous("env://", **given))
        yield PrefixStore(f"restart_{restarts}", store), rank, world_size

    register_rendezvous_handler("restarted", meet)  # type: ignore[no-untyped-call]
    return "restarted://"
