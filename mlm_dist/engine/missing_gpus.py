"""GPUs that a launch needs and torch does not see, and CUDA's reason for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

ON_CPU = {
    "none": "use configs/accelerate/cpu.yaml to compute on the CPU",
    "ddp": "use --topology cpu_2 to compute on the CPU",
    "fsdp2": "--gpu_ids=-1,-1 computes on the CPU",
    "zero": "--gpu_ids=-1,-1 computes on the CPU",
}
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_NONE_FOUND = ("No CUDA GPUs are available", "No HIP GPUs are available", "no CUDA-capable device is detected")
_ADVICE = (" Please ", " Alternatively", " Did you run ")  # what torch's messages end with
_VERSION = re.compile(r"(?<=found version )\d{4,}")  # 12020 is CUDA 12.2
_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd")


def conflict(num_processes: int, num_gpus: int, sharding: str, environ: Mapping[str, str] = os.environ) -> str:
    """One line that refuses a launch with too few GPUs on this machine, with the reason and the remedy.

    Args:
        num_processes: Processes on this machine, each of which needs a GPU.
        num_gpus: GPUs that torch sees, fewer than that.
        sharding: none, ddp, fsdp2 or zero.
        environ: The environment of the processes.
    """
    many = num_processes > 1
    needed = f"{num_processes} processes on this machine need a GPU each" if many else "the process needs a GPU"
    needed = f"num_processes: {needed}"
    if num_gpus:
        limit = next((f" ({name}={environ[name]})" for name in _HIDING if environ.get(name)), "")
        return f"{needed}, and torch sees {num_gpus}{limit}; use --num_processes {num_gpus}"
    return f"{needed}, and torch sees none: {reason(environ)}; {ON_CPU[sharding]}"


def reason(environ: Mapping[str, str] = os.environ) -> str:
    """Why torch sees no GPU on this machine."""
    error = ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as failure:
        error = str(failure)
    return explained(error, environ, torch.__version__, torch.version.cuda or torch.version.hip)


def explained(error: str, environ: Mapping[str, str], version: str, toolkit: str | None) -> str:
    """The reason for an error of `torch.cuda.init`, in one line without advice.

    Args:
        error: What it raised.
        environ: The environment.
        version: The version of torch.
        toolkit: The version of CUDA or ROCm that torch is built for, None for a build without them.
    """
    if toolkit is None:
        return f"torch {version} is a build without CUDA or ROCm"
    hiding = next((name for name in _HIDING if name in environ), None)
    text = " ".join(error.split()) or _NONE_FOUND[0]
    if hiding is not None and any(words in text for words in _NONE_FOUND):
        return f"{hiding}={environ[hiding]!r} hides them"
    for advice in _ADVICE:
        before, _, after = text.partition(advice)
        # The code of an error follows torch's advice.
        text = f"{before} {after[after.index('Error ') :]}" if "Error " in after else before
    text = _VERSION.sub(lambda found: f"{int(found[0]) // 1000}.{int(found[0]) % 1000 // 10}", text)
    return f"{text.strip().rstrip('.')} (torch {version} is built for CUDA {toolkit})"


def unused(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why the GPUs of this machine are not used, if it has a driver for some and torch cannot use it; else None."""
    return reason(environ) if any(Path(path).exists() for path in _DRIVERS) else None
