"""What the processes of this machine compute on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

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


def device_here(environ: Mapping[str, str] = os.environ) -> Device:
    """The device of this machine; the CPU if there is no other, or if the accelerate file says so."""
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
    """Bytes of memory that this machine has, or that its container may use."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for name in _LIMITS:
        try:
            total = min(total, int(Path(name).read_text("ascii")))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return total


def on_cpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process computes on the CPU."""
    return not torch.accelerator.is_available() or is_on("ACCELERATE_USE_CPU", environ)


def is_on(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a switch of the launcher is on."""
    return environ.get(name, "false").lower() in ("true", "1", "yes")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
