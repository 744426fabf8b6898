"""Run config, accelerate file and DeepSpeed JSON: where they contradict each other or this machine, before any work.

Accelerate and DeepSpeed settle most of these without a word, one way or the other: the run goes on, and is another one
than was asked for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mlm_dist.batches.global_batch import BatchPlan
from mlm_dist.config import Config
from mlm_dist.engine.topology import Topology, asked_for
from mlm_dist.errors import ConfigError
from mlm_dist.optim import optimizers

# Fields of an accelerate file that accelerate itself refuses beside a DeepSpeed JSON, at a late point.
_BESIDE_JSON = {
    *("gradient_accumulation_steps", "gradient_clipping", "zero_stage", "offload_optimizer_device"),
    *("offload_param_device", "offload_param_nvme_path", "offload_optimizer_nvme_path", "zero3_save_16bit_model"),
    "mixed_precision",
}
_USE_CPU = "use_cpu: true turns DeepSpeed off without a word; write false, it uses the CPU where there is no GPU"


def check(config: Config, plan: BatchPlan, topology: Topology, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch that cannot do what the run config says.

    Raises:
        ConfigError: Names the first contradiction, its two sides and the remedy.
    """
    for found in _found(config, plan, topology, environ):
        raise ConfigError(found)


def check_file(name: str, settings: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Refuse an accelerate file before it is launched, for what the launched processes could no longer see.

    Args:
        name: The file, for the message.
        settings: What it holds.
        flags: Flags of the launcher, which win over it.

    Raises:
        ConfigError: Names the first contradiction, its two sides and the remedy.
    """
    for found in _found_in_file(dict(settings), flags):
        raise ConfigError(f"{name}: {found}")


def deepspeed_settings(config: Config, plan: BatchPlan) -> dict[str, tuple[str, float]]:
    """DeepSpeed settings that follow from the run config: {name: (config key, value)}."""
    return {
        "train_batch_size": ("batch.global_size", plan.global_size),
        "train_micro_batch_size_per_gpu": ("batch.micro_size", plan.micro_size),
        "gradient_accumulation_steps": ("batch.global_size", plan.accumulation),
        "gradient_clipping": ("optim.max_grad_norm", config.optim.max_grad_norm or 0.0),
    }


def _found(config: Config, plan: BatchPlan, topology: Topology, environ: Mapping[str, str]) -> Iterator[str]:
    device, on_cpu = topology.device, topology.device.kind == "cpu"
    if not on_cpu and topology.local_processes > device.count:
        yield (
            f"num_processes: {topology.local_processes} processes on this machine, which has {device.count} "
            f"{device.name}; use --num_processes {device.count}"
        )
    if asked_for("ACCELERATE_USE_MEGATRON_LM", environ) or asked_for("ACCELERATE_USE_PARALLELISM_CONFIG", environ):
        yield "distributed_type: Megatron-LM and parallelism_config are not supported; use DDP, ZeRO or FSDP2"
    if environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        yield (
            f"dynamo_backend: {environ['ACCELERATE_DYNAMO_BACKEND']} in the accelerate file, but model.compile is the "
            "home of that; remove it there and use --model.compile regional"
        )
    if config.model.compile != "none":
        yield from _of_compiler(config.model.compile, device.kind, environ)
    yield from _of_precision(topology, on_cpu)
    yield from _of_window(config, plan, environ)
    yield from _of_optimizer(config, topology)
    if topology.sharding == "fsdp2":
        yield from _of_fsdp(environ, on_cpu)
    if topology.sharding == "zero":
        yield from _of_deepspeed(config, plan, topology, environ)


def _of_compiler(how: str, kind: str, environ: Mapping[str, str]) -> Iterator[str]:
    """What torch.compile needs beside torch."""
    compiler = environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if kind == "cpu" and shutil.which(compiler, path=environ.get("PATH")) is None:
        yield f"model.compile: {how} needs a C++ compiler, and there is no {compiler}; install it or write none"
    if kind == "cuda" and importlib.util.find_spec("triton") is None:
        yield f"model.compile: {how} needs triton on a GPU; run: pip install triton, or write none"


def _of_precision(topology: Topology, on_cpu: bool) -> Iterator[str]:
    if topology.precision == "fp8":
        yield "mixed_precision: fp8 is not supported; use --mixed_precision bf16"
    if topology.precision == "fp16" and on_cpu:
        # accelerate would compute in fp32 and say nothing.
        yield "mixed_precision: fp16 needs a GPU; use --mixed_precision bf16 or no"
    if topology.precision == "bf16" and not topology.device.has_bf16:
        yield (
            f"mixed_precision: bf16 is only emulated by {topology.device.name}; use --mixed_precision fp16, as "
            "configs/accelerate/colab.yaml does"
        )


def _of_window(config: Config, plan: BatchPlan, environ: Mapping[str, str]) -> Iterator[str]:
    """What an accelerate file says about accumulation and clipping, which the run config is the home of."""
    for name, variable in (
        ("gradient_accumulation_steps", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
        ("gradient_clipping", "ACCELERATE_GRADIENT_CLIPPING"),
    ):
        theirs = environ.get(variable, "auto")
        key, ours = deepspeed_settings(config, plan)[name]
        if theirs not in ("auto", "none") and not _same(theirs, ours):
            yield f"{name}: {theirs} in the accelerate file, but {key} makes it {ours}; remove it there"


def _of_optimizer(config: Config, topology: Topology) -> Iterator[str]:
    name = config.optim.name
    optimizers.check_name(name)
    package = optimizers.missing_package(name)
    if package is not None:
        yield f"optim.name: {name} needs {package}, which is not installed; run: pip install 'mlm_dist[optimizers]'"
    if optimizers.OPTIMIZERS[name].needs_whole_tensors and topology.sharding in ("zero", "fsdp2"):
        sharding = "ZeRO" if topology.sharding == "zero" else "FSDP2"
        yield (
            f"optim.name: {name} needs whole tensors, which {sharding} shards; use adamw, or an accelerate file "
            "without sharding such as configs/accelerate/ddp.yaml"
        )


def _of_fsdp(environ: Mapping[str, str], on_cpu: bool) -> Iterator[str]:
    if on_cpu:
        yield "the accelerate file asks for FSDP, which needs GPUs; use configs/accelerate/cpu_2.yaml here"
    if environ.get("FSDP_VERSION", "1") != "2":
        yield "fsdp_version: must be 2, as in configs/accelerate/fsdp2.yaml; FSDP 1 is not supported"
    if asked_for("FSDP_CPU_RAM_EFFICIENT_LOADING", environ):
        yield "fsdp_cpu_ram_efficient_loading: must be false; it would untie the embeddings"


def _of_deepspeed(config: Config, plan: BatchPlan, topology: Topology, environ: Mapping[str, str]) -> Iterator[str]:
    if importlib.util.find_spec("deepspeed") is None:
        yield "the accelerate file asks for DeepSpeed, which is not installed; run: pip install 'mlm_dist[deepspeed]'"
    if asked_for("ACCELERATE_USE_CPU", environ):
        yield _USE_CPU
    file, settings = topology.deepspeed_file, topology.deepspeed
    if file is None:
        if topology.stage == 0:
            yield "zero_stage: 0 shards nothing; use configs/accelerate/ddp.yaml, or stage 1, 2 or 3"
        where, device = "offload_{}_device", "ACCELERATE_DEEPSPEED_OFFLOAD_{}_DEVICE"
        places = {part: environ.get(device.format(part.upper())) for part in topology.offload}
    else:
        if topology.stage not in (1, 2, 3):
            yield (
                f"{file}: zero_optimization.stage is {topology.stage}; write 1, 2 or 3, or use "
                "configs/accelerate/ddp.yaml"
            )
        where = f"{file}: zero_optimization.offload_{{}}"
        places = {part: settings["zero_optimization"][f"offload_{part}"]["device"] for part in topology.offload}
    if "param" in topology.offload and topology.stage != 3:
        yield f"{where.format('param')}: weights can be offloaded at stage 3 alone, and the stage is {topology.stage}"
    for part, place in places.items():
        if place != "cpu":
            yield f"{where.format(part)}: {place} is not supported; write cpu"
    if file is not None:
        yield from _of_json(file, config, plan, settings, environ)


def _of_json(
    file: str, config: Config, plan: BatchPlan, settings: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[str]:
    for name, (key, ours) in deepspeed_settings(config, plan).items():
        theirs = settings.get(name, "auto")
        if theirs != "auto" and not _same(theirs, ours):
            yield f'{file}: {name} is {theirs}, but {key} makes it {ours}; write "auto" there'
    for section, key in (("optimizer", "optim.name"), ("scheduler", "optim.schedule")):
        if section in settings:
            yield f"{file}: has a section {section}, but {key} is the home of that; remove the section"
    doubled = sorted(_BESIDE_JSON & set(environ.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",")))
    if doubled:
        yield f"{', '.join(doubled)}: in the accelerate file, beside deepspeed_config_file; say it in {file} alone"
    enabled = {kind: settings.get(kind, {}).get("enabled", "auto") for kind in ("bf16", "fp16")}
    asked = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if list(enabled.values()) == [True, True]:
        yield f'{file}: bf16 and fp16 are both enabled; write "auto" in both'
    for kind, other in (("bf16", "fp16"), ("fp16", "bf16")):
        if asked == kind and (enabled[kind] is False or enabled[other] is True):
            theirs = other if enabled[other] is True else f"no {kind}"
            yield f'mixed_precision: {kind} asked of accelerate, but {file} says {theirs}; write "auto" in both there'


def _found_in_file(settings: dict[str, Any], flags: Mapping[str, Any]) -> Iterator[str]:
    kind = str(settings.get("distributed_type", "NO")).upper()
    deepspeed: Mapping[str, Any] = settings.get("deepspeed_config") or {}

    def said(name: str, default: Any = None) -> Any:
        flag = flags.get(name)
        return flag if flag is not None else settings.get(name, deepspeed.get(name, default))

    if kind in ("NO", "MULTI_CPU") and int(said("num_processes", 1)) * int(said("num_machines", 1)) > 1:
        yield (
            f"num_processes: {said('num_processes', 1)}, but distributed_type {kind} starts one process alone; take "
            "MULTI_GPU, on the CPU with use_cpu: true, as configs/accelerate/cpu_2.yaml does"
        )
    if said("use_cpu") and kind == "DEEPSPEED":
        yield _USE_CPU
    if said("use_cpu") and kind == "FSDP":
        yield "use_cpu: true with FSDP trains one unconnected copy per process; FSDP needs GPUs"
    if kind == "DEEPSPEED" and int(said("num_machines", 1)) > 1:
        launcher = said("deepspeed_multinode_launcher", "pdsh")
        if launcher != "standard":
            yield (
                f"deepspeed_multinode_launcher: {launcher} would log in to the other machines; write standard, and "
                "start the same command on each"
            )
    beside = sorted(_BESIDE_JSON & {*deepspeed, *({"mixed_precision"} & set(settings))})
    if deepspeed.get("deepspeed_config_file") and beside:
        file = deepspeed["deepspeed_config_file"]
        yield f"{', '.join(beside)}: beside deepspeed_config_file; say it in {file} alone"


def _same(theirs: Any, ours: float) -> bool:
    try:
        return float(theirs) == float(ours)
    except (TypeError, ValueError):
        return False
