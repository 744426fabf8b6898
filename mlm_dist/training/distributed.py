"""Processes, devices and sharding; the only file that knows DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    LoggerType,
    ProjectConfiguration,
)
from torch import nn
from transformers.integrations import unset_hf_deepspeed_config

from mlm_dist.batching.plan import BatchPlan
from mlm_dist.config import Config
from mlm_dist.errors import ConfigError, reason


def check(config: Config, plan: BatchPlan) -> None:
    """Refuse an accelerate file that cannot work here, before anything is prepared.

    Raises:
        ConfigError: A tracker is unknown or not installed, DeepSpeed is asked for and missing, its own file contradicts
            the config, or FSDP is asked for without a GPU.
    """
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    for name in config.tracking.trackers:
        if name not in known:
            raise ConfigError(f"tracking.trackers: {name} is not known to accelerate; choose of {', '.join(known)}")
        if name not in {str(kind) for kind in get_available_trackers()}:
            raise ConfigError(f"tracking.trackers: {name} is not installed; run: pip install {name}")
    if not torch.accelerator.is_available() and _asked_for("ACCELERATE_USE_FSDP"):
        raise ConfigError("the accelerate file asks for FSDP, which needs GPUs; use configs/accelerate/cpu_2.yaml here")
    if not _asked_for("ACCELERATE_USE_DEEPSPEED"):
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "the accelerate file asks for DeepSpeed, which is not installed; run: pip install 'mlm_dist[deepspeed]'"
        )
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file is None:
        return
    try:
        settings = json.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed_config_file: cannot read {file} ({reason(error)})") from None
    for name, (key, ours) in _deepspeed_settings(config, plan).items():
        theirs = settings.get(name, "auto")
        if theirs not in ("auto", ours):
            raise ConfigError(f'{file}: {name} is {theirs}, but {key} makes it {ours}; write "auto" there')


def start(config: Config, plan: BatchPlan) -> Accelerator:
    """Join the processes of this launch, on the devices and with the precision that the accelerate file names.

    Raises:
        ConfigError: Fewer processes joined than were launched.
    """
    on_cpu = not torch.accelerator.is_available()
    deepspeed = _asked_for("ACCELERATE_USE_DEEPSPEED")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        # The launcher sets one OpenMP thread per process; the cores are there to be used.
        torch.set_num_threads(max(1, _num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    # The window is ours: accelerate must end it where we say, not where an environment variable does.
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        deepspeed_plugin=_deepspeed_plugin(config, plan) if deepspeed else None,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=plan.accumulation, sync_with_dataloader=False, adjust_scheduler=False
        ),
        # DeepSpeed finds no backend by itself where there is no GPU.
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if on_cpu and deepspeed else [],
        log_with=list(config.tracking.trackers),
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
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared


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
    norm: torch.Tensor = accelerator.clip_grad_norm_(model.parameters(), float("inf") if max_norm is None else max_norm)
    return norm


def grad_norm_of_last_step(model: Any) -> torch.Tensor:
    """The norm before clipping that DeepSpeed kept of its last update."""
    return torch.as_tensor(model.get_global_grad_norm() or 0.0)


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
        value: torch.Tensor | None = None
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            value = safe_get_full_fp32_param(parameter)
        elif hasattr(parameter, "full_tensor"):  # FSDP2's sharded tensors
            value = parameter.full_tensor()
        yield name, (parameter if value is None else value).detach().to("cpu", torch.float32)


def _deepspeed_plugin(config: Config, plan: BatchPlan) -> DeepSpeedPlugin:
    """The plugin with our batch, accumulation and clipping in it: left to itself it takes 1, 1 and 1.0."""
    plugin = DeepSpeedPlugin()
    plugin.deepspeed_config.update({name: ours for name, (_, ours) in _deepspeed_settings(config, plan).items()})
    plugin.deepspeed_config.setdefault("zero_allow_untested_optimizer", True)
    plugin.deepspeed_config.setdefault("zero_force_ds_cpu_optimizer", False)
    plugin.zero3_init_flag = False  # the seed makes the weights on every process; they are sharded afterwards
    return plugin


def _deepspeed_settings(config: Config, plan: BatchPlan) -> dict[str, tuple[str, float]]:
    """DeepSpeed settings that follow from the config: {name: (config key, value)}."""
    return {
        "train_batch_size": ("batch.global_size", plan.global_size),
        "train_micro_batch_size_per_gpu": ("batch.micro_size", plan.micro_size),
        "gradient_accumulation_steps": ("batch.global_size", plan.accumulation),
        "gradient_clipping": ("optim.max_grad_norm", config.optim.max_grad_norm or 0.0),
    }


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
