"""Conflicts between run config, accelerate file, DeepSpeed JSON and machine, found before any work is done.

Accelerate and DeepSpeed resolve most of these silently, and the run is not the one that was asked for.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlm_dist.engine import compiler, missing_gpus
from mlm_dist.engine.device import KINDS, is_on, wants_cpu
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError
from mlm_dist.optim import optimizers
from mlm_dist.spec import BatchSpec

# Fields of an accelerate file that accelerate itself refuses beside a DeepSpeed JSON, at a late point.
BESIDE_JSON = {
    *("gradient_accumulation_steps", "gradient_clipping", "zero_stage", "offload_optimizer_device"),
    *("offload_param_device", "offload_param_nvme_path", "offload_optimizer_nvme_path", "zero3_save_16bit_model"),
    "mixed_precision",
}
USE_CPU = "use_cpu: true turns DeepSpeed off silently; write gpu_ids: '-1,-1' instead to compute on the CPU"

FSDP_USE_CPU = (
    "use_cpu: true with FSDP trains one unconnected copy per process; write gpu_ids: '-1,-1' instead, as "
    "configs/accelerate/fsdp2_cpu.yaml does"
)


@dataclass(frozen=True)
class RunSettings:
    """What a run config sets that a launch may contradict.

    Args:
        batch: The batch.
        optimizer: `optim.name`.
        max_grad_norm: `optim.max_grad_norm`.
        compile: `model.compile`.
    """

    batch: BatchSpec
    optimizer: str
    max_grad_norm: float | None
    compile: str


def check(run: RunSettings, launch: Launch, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch that cannot do what the run config says.

    Raises:
        ConfigError: Names the first contradiction, its two sides and the remedy.
    """
    for conflict in _conflicts(run, launch, environ):
        raise ConfigError(conflict)


def deepspeed_settings(batch: BatchSpec, max_grad_norm: float | None) -> dict[str, tuple[str, float]]:
    """DeepSpeed settings that follow from the run config: {name: (config key, value)}."""
    return {
        "train_batch_size": ("batch.global_size", batch.global_size),
        "train_micro_batch_size_per_gpu": ("batch.micro_size", batch.micro_size),
        "gradient_accumulation_steps": ("batch.global_size", batch.accumulation),
        "gradient_clipping": ("optim.max_grad_norm", max_grad_norm or 0.0),
    }


def _conflicts(run: RunSettings, launch: Launch, environ: Mapping[str, str]) -> Iterator[str]:
    yield from _of_device(launch, environ)
    if is_on("ACCELERATE_USE_MEGATRON_LM", environ) or is_on("ACCELERATE_USE_PARALLELISM_CONFIG", environ):
        yield "distributed_type: Megatron-LM and parallelism_config are not supported; use DDP, ZeRO or FSDP2"
    if environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        yield (
            f"dynamo_backend: {environ['ACCELERATE_DYNAMO_BACKEND']} in the accelerate file, but set it with "
            "model.compile instead; remove it there and use --model.compile regional"
        )
    if run.compile != "none":
        lacks = compiler.missing(launch.device.kind, environ)
        if lacks is not None:
            yield f"model.compile: {run.compile} needs {lacks}"
    yield from _of_precision(launch)
    yield from _of_accumulation(run, environ)
    yield from _of_optimizer(run.optimizer, launch)
    if launch.sharding == "fsdp2":
        yield from _of_fsdp(environ)
    if launch.sharding == "zero":
        yield from _of_deepspeed(run, launch, environ)


def _of_device(launch: Launch, environ: Mapping[str, str]) -> Iterator[str]:
    """What a launch needs of this machine's devices."""
    device, count = launch.device, launch.local_world_size
    if device.kind not in KINDS:
        yield f"this machine computes on {device.kind}, which is not supported; use configs/accelerate/cpu.yaml"
    if device.num_gpus < count and not (device.kind == "cpu" and wants_cpu(environ)) and _needs_gpus(launch, environ):
        yield missing_gpus.conflict(count, device.num_gpus, launch.sharding, environ)
    if device.kind in ("mps", "xpu") and (launch.world_size > 1 or launch.is_sharded):
        yield (
            f"the accelerate file asks for several processes or sharding, which need GPUs of NVIDIA or AMD, and this "
            f"machine has {device.name}; use configs/accelerate/{device.kind}.yaml"
        )


def _needs_gpus(launch: Launch, environ: Mapping[str, str]) -> bool:
    """Whether an accelerate file asks for GPUs. Files for CPUs say so, see `device.wants_cpu`.

    Without a file, accelerate launches one process in fp32 on the device it finds, and says `use_cpu` all the same.
    """
    is_launched = "ACCELERATE_USE_CPU" in environ and launch.precision != "fp32"
    return launch.world_size > 1 or launch.is_sharded or is_launched


def _of_precision(launch: Launch) -> Iterator[str]:
    if launch.precision == "fp8":
        yield "mixed_precision: fp8 is not supported; use --mixed_precision bf16"
    if launch.precision == "fp16" and launch.device.kind == "cpu":
        # accelerate would compute in fp32 and say nothing.
        yield "mixed_precision: fp16 needs a GPU; use --mixed_precision bf16 or no"
    if launch.precision == "bf16" and not launch.device.has_bf16:
        yield (
            f"mixed_precision: bf16 is only emulated by {launch.device.name}; use --mixed_precision fp16, as "
            "configs/accelerate/colab.yaml does"
        )


def _of_accumulation(run: RunSettings, environ: Mapping[str, str]) -> Iterator[str]:
    """Accumulation and clipping in an accelerate file, which follow from the run config."""
    for name, variable in (
        ("gradient_accumulation_steps", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
        ("gradient_clipping", "ACCELERATE_GRADIENT_CLIPPING"),
    ):
        theirs = environ.get(variable, "auto")
        key, ours = deepspeed_settings(run.batch, run.max_grad_norm)[name]
        if theirs not in ("auto", "none") and not _same(theirs, ours):
            yield f"{name}: {theirs} in the accelerate file, but {key} makes it {ours}; remove it there"


def _of_optimizer(name: str, launch: Launch) -> Iterator[str]:
    package = optimizers.missing_package(name)
    if package is not None:
        yield f"optim.name: {name} needs {package}, which is not installed; run: pip install 'mlm_dist[optimizers]'"
    shardings = optimizers.OPTIMIZERS[name].shardings
    if launch.is_sharded and launch.sharding not in shardings:
        instead = "fsdp2" if "fsdp2" in shardings else "ddp"
        yield (
            f"optim.name: {name} does not work under {'ZeRO' if launch.sharding == 'zero' else 'FSDP2'}, which shards "
            f"the tensors its step depends on; use adamw, or configs/accelerate/{instead}.yaml"
        )


def _of_fsdp(environ: Mapping[str, str]) -> Iterator[str]:
    if is_on("ACCELERATE_USE_CPU", environ):
        yield FSDP_USE_CPU
    if environ.get("FSDP_VERSION", "1") != "2":
        yield "fsdp_version: must be 2, as in configs/accelerate/fsdp2.yaml; FSDP 1 is not supported"
    if is_on("FSDP_CPU_RAM_EFFICIENT_LOADING", environ):
        yield "fsdp_cpu_ram_efficient_loading: must be false; it would untie the embeddings"
    if is_on("FSDP_ACTIVATION_CHECKPOINTING", environ):
        yield "fsdp_activation_checkpointing: set it with model.checkpointing instead; write false there"


def _of_deepspeed(run: RunSettings, launch: Launch, environ: Mapping[str, str]) -> Iterator[str]:
    if importlib.util.find_spec("deepspeed") is None:
        yield "the accelerate file asks for DeepSpeed, which is not installed; run: pip install 'mlm_dist[deepspeed]'"
    if is_on("ACCELERATE_USE_CPU", environ):
        yield USE_CPU
    file, settings = launch.deepspeed_file, launch.deepspeed
    if file is None:
        if launch.stage == 0:
            yield "zero_stage: 0 shards nothing; use configs/accelerate/ddp.yaml, or stage 1, 2 or 3"
        where, variable = "offload_{}_device", "ACCELERATE_DEEPSPEED_OFFLOAD_{}_DEVICE"
        devices = {part: environ.get(variable.format(part.upper())) for part in launch.offload}
    else:
        if launch.stage not in (1, 2, 3):
            yield (
                f"{file}: zero_optimization.stage is {launch.stage}; write 1, 2 or 3, or use "
                "configs/accelerate/ddp.yaml"
            )
        where = f"{file}: zero_optimization.offload_{{}}"
        devices = {part: settings["zero_optimization"][f"offload_{part}"]["device"] for part in launch.offload}
    if "param" in launch.offload and launch.stage != 3:
        yield f"{where.format('param')}: weights can be offloaded at stage 3 only, and the stage is {launch.stage}"
    for part, device in devices.items():
        if device != "cpu":
            yield f"{where.format(part)}: {device} is not supported; write cpu"
    if file is not None:
        yield from _of_json(file, run, settings, environ)


def _of_json(file: str, run: RunSettings, settings: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    for name, (key, ours) in deepspeed_settings(run.batch, run.max_grad_norm).items():
        theirs = settings.get(name, "auto")
        if theirs != "auto" and not _same(theirs, ours):
            yield f'{file}: {name} is {theirs}, but {key} makes it {ours}; write "auto" there'
    for section, key in (
        ("optimizer", "optim.name"),
        ("scheduler", "optim.schedule"),
        ("activation_checkpointing", "model.checkpointing"),
    ):
        if section in settings:
            yield f"{file}: has a section {section}; set it with {key} instead and remove the section"
    doubled = sorted(BESIDE_JSON & set(environ.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",")))
    if doubled:
        yield f"{', '.join(doubled)}: in the accelerate file, beside deepspeed_config_file; set it in {file} only"
    enabled = {kind: settings.get(kind, {}).get("enabled", "auto") for kind in ("bf16", "fp16")}
    asked = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if list(enabled.values()) == [True, True]:
        yield f'{file}: bf16 and fp16 are both enabled; write "auto" in both'
    for kind, other in (("bf16", "fp16"), ("fp16", "bf16")):
        if asked == kind and (enabled[kind] is False or enabled[other] is True):
            theirs = other if enabled[other] is True else f"no {kind}"
            yield f'mixed_precision: {kind} in the accelerate file, but {file} has {theirs}; write "auto" in both there'


def _same(theirs: Any, ours: float) -> bool:
    try:
        return float(theirs) == float(ours)
    except (TypeError, ValueError):
        return False
