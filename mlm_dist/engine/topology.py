"""What the launcher says about processes, devices and sharding: read from the environment, without a process group."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mlm_dist.errors import ConfigError, reason

NAMES = {"none": "no sharding", "ddp": "DDP", "fsdp2": "FSDP2"}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # of a number the matrix products are computed in


@dataclass(frozen=True)
class Device:
    """What the processes of this machine compute on.

    Args:
        kind: cpu, cuda, mps and so on, as torch calls it.
        name: For people.
        count: How many of them this machine has; the CPU counts as one.
        memory: Bytes of each; on the CPU what this machine, or its container, has.
        has_bf16: Whether it computes in bf16 by itself.
    """

    kind: str
    name: str
    count: int
    memory: int
    has_bf16: bool


@dataclass(frozen=True)
class Topology:
    """A launch as its environment describes it.

    Args:
        num_processes: Processes on all machines.
        local_processes: Of these, on this one.
        device: What they compute on.
        precision: fp32, bf16, fp16 or fp8.
        sharding: none, ddp, zero or fsdp2.
        stage: What ZeRO shards: 1 moments, 2 gradients too, 3 weights too; 0 where it does not run.
        offload: What DeepSpeed keeps in host memory: some of optimizer, param.
        deepspeed_file: The DeepSpeed JSON, if there is one.
        deepspeed: What it holds.
    """

    num_processes: int
    local_processes: int
    device: Device
    precision: str = "fp32"
    sharding: str = "none"
    stage: int = 0
    offload: frozenset[str] = frozenset()
    deepspeed_file: str | None = None
    deepspeed: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Processes, sharding, device and precision, for people."""
        count = f"{self.num_processes} process" + ("es" if self.num_processes > 1 else "")
        sharding = NAMES.get(self.sharding, f"ZeRO-{self.stage}")
        offload = f", {' and '.join(sorted(self.offload))} offloaded to the host" if self.offload else ""
        return f"{count} on {self.device.kind}, {sharding}{offload}, precision {self.precision}"


def read(environ: Mapping[str, str] = os.environ, device: Device | None = None) -> Topology:
    """Read what `accelerate launch` left in the environment of each process it started.

    Args:
        environ: The environment.
        device: What this machine computes on; by default it is looked at.

    Raises:
        ConfigError: The DeepSpeed JSON cannot be read.
    """
    num_processes = int(environ.get("WORLD_SIZE", "1"))
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    common: dict[str, Any] = {
        "num_processes": num_processes,
        "local_processes": int(environ.get("LOCAL_WORLD_SIZE", "1")),
        "device": device or device_here(environ),
        "precision": "fp32" if precision == "no" else precision,
    }
    if asked_for("ACCELERATE_USE_FSDP", environ):
        return Topology(**common, sharding="fsdp2")
    if not asked_for("ACCELERATE_USE_DEEPSPEED", environ):
        return Topology(**common, sharding="ddp" if num_processes > 1 else "none")
    file = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file is None:
        offload = {part: environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part.upper()}_DEVICE") for part in _OFFLOADED}
        return Topology(
            **common,
            sharding="zero",
            stage=int(environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")),
            offload=_named(offload),
        )
    try:
        settings = json.loads(Path(file).read_text("utf-8"))
        zero = settings.get("zero_optimization", {})
        stage = zero.get("stage", 0)
        offload = {part: zero.get(f"offload_{part}", {}).get("device") for part in _OFFLOADED}
        enabled = [kind for kind in ("bf16", "fp16") if settings.get(kind, {}).get("enabled") is True]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"deepspeed_config_file: cannot read {file} ({reason(error)})") from None
    if enabled:
        common["precision"] = enabled[0]
    return Topology(
        **common,
        sharding="zero",
        stage=stage,
        offload=_named(offload),
        deepspeed_file=file,
        deepspeed=settings,
    )


def device_here(environ: Mapping[str, str] = os.environ) -> Device:
    """What this machine computes on; the CPU where it has nothing else, or the accelerate file says so."""
    if on_cpu(environ):
        return Device("cpu", f"CPU, {num_cores()} cores", 1, host_memory(), True)
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    count = torch.accelerator.device_count()
    if kind.type != "cuda":
        return Device(kind.type, kind.type, count, host_memory(), True)
    properties = torch.cuda.get_device_properties(0)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 emulates it, many times slower
    return Device("cuda", properties.name, count, properties.total_memory, has_bf16)


def host_memory() -> int:
    """Bytes of memory this machine has, or its container may use."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(name).read_text("ascii")))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return total


def on_cpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process computes on the CPU."""
    return not torch.accelerator.is_available() or asked_for("ACCELERATE_USE_CPU", environ)


def asked_for(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether one of the launcher's switches is on."""
    return environ.get(name, "false").lower() in ("true", "1", "yes")


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_OFFLOADED = ("optimizer", "param")


def _named(devices: Mapping[str, str | None]) -> frozenset[str]:
    return frozenset(part for part, device in devices.items() if device not in (None, "none"))
