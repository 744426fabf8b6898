"""The peak of a GPU: from its vendor's data sheet, and of matrix products measured on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import common

from mlm_dist.engine.cards import card


def properties(on_gpu: bool) -> dict[str, Any]:
    """The device's name and memory, and its dense 16-bit peak by its vendor: None if the card is not in the table."""
    import torch

    from mlm_dist.engine.device import device_here
    from mlm_dist.engine.missing_gpus import reason

    device = device_here({} if on_gpu else {"ACCELERATE_USE_CPU": "true"})
    if on_gpu and device.kind != "cuda":
        raise RuntimeError(f"torch sees no GPU: {reason()}; --dry-run needs none")
    known = card(device.name)
    return {
        "name": device.name,
        "memory_gib": round(device.memory / 2**30, 1),
        "capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "has_bf16": device.has_bf16,
        "toolkit": torch.version.cuda or torch.version.hip,
        "driver": _driver(),
        "peak_flops": None if known is None else known.flops,
    }


def facts(scale: Any) -> dict[str, Any]:
    """What the device is, and the highest FLOP/s of matrix products on it."""
    peak = measured_peak(scale.seconds, scale.precision, scale.on_gpu)
    return {**properties(scale.on_gpu), "measured_flops": peak}


def _driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    file = Path("/proc/driver/nvidia/version")
    return file.read_text("utf-8").splitlines()[0] if file.exists() else None


def measured_peak(seconds: float, precision: str, on_gpu: bool) -> dict[str, Any]:
    """The highest FLOP/s of matrix products of several shapes: {precision: rate}."""
    if not on_gpu:
        return dict(common.gemm_peak(seconds))
    import torch

    best = {}
    half = torch.bfloat16 if precision == "bf16" else torch.float16
    for name, dtype in (("fp32", torch.float32), (precision, half)):
        rate = 0.0
        for m, k, n in ((65536, 768, 3072), (65536, 3072, 768), (8192, 8192, 8192), (16384, 4096, 4096)):
            left, right = (torch.randn(shape, dtype=dtype, device="cuda") for shape in ((m, k), (k, n)))
            output = torch.mm(left, right)  # the first call plans the kernel
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            until = time.perf_counter() + seconds / 4
            while time.perf_counter() < until:
                begin.record()
                for _ in range(5):
                    torch.mm(left, right, out=output)
                end.record()
                end.synchronize()
                rate = max(rate, 5 * 2 * m * k * n / (begin.elapsed_time(end) / 1000))
        best[name] = rate
    return best
