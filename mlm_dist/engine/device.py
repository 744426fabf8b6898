"""What the processes of this machine compute on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

KINDS = ("cpu", "cuda", "mps", "xpu")  # cuda is NVIDIA's or AMD's, mps Apple's, xpu Intel's
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container's memory


@dataclass(frozen=True)
class Device:
    """A kind of device, and how many of it this machine has.

    Args:
        kind: cpu, cuda, mps and so on, as torch calls it.
        name: Name for people.
        count: Number of devices; the CPU counts as one.
        memory: Bytes of each; for the CPU those of this machine or its container.
        has_bf16: Whether it computes in bf16 natively.
    """

    kind: str
    name: str
    count: int
    memory: int
    has_bf16: bool

    @property
    def num_gpus(self) -> int:
        """Number of devices that are not the CPU."""
        return 0 if self.kind == "cpu" else self.count


def device_here(environ: Mapping[str, str] = os.environ) -> Device:
    """The device of this machine; the CPU if there is no other, or if the launch asks for it."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or wants_cpu(environ):
        return Device("cpu", f"CPU, {num_cores()} cores", 1, host_memory(), True)
    count = torch.accelerator.device_count()
    if kind.type == "mps":
        # Metal's limit for its share of the machine's memory; bf16 came with macOS 14.
        has_bf16 = torch.backends.mps.is_macos_or_newer(14, 0)
        return Device("mps", "Apple GPU", count, torch.mps.recommended_max_memory(), has_bf16)
    if kind.type not in KINDS:
        return Device(kind.type, kind.type, count, host_memory(), True)
    api = torch.get_device_module(kind)
    properties = api.get_device_properties(0)
    has_bf16 = api.is_bf16_supported(including_emulation=False)  # a T4 emulates it, many times slower
    return Device(kind.type, properties.name, count, properties.total_memory, has_bf16)


def host_memory() -> int:
    """Bytes of memory that this machine has, or that its container may use."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for name in _LIMITS:
        try:
            total = min(total, int(Path(name).read_text("ascii")))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return total


def wants_cpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this launch asks for the CPU: with `use_cpu: true`, or with `gpu_ids: -1,-1`, which hides all GPUs.

    accelerate passes `use_cpu` to a single process only, and `gpu_ids` to every process, in one of these variables.
    """
    hidden = (environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"))
    return is_on("ACCELERATE_USE_CPU", environ) or any(map(hides_all, hidden))


def hides_all(gpu_ids: str | None) -> bool:
    """Whether a list of GPUs, such as `-1,-1`, holds none on purpose."""
    return gpu_ids is not None and {one.strip() for one in gpu_ids.split(",")} == {"-1"}


def is_on(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a switch of the launcher is on."""
    return environ.get(name, "false").lower() in ("true", "1", "yes")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
