"""The peak of a GPU: from its vendor's data sheet, and of matrix products measured on it."""

from __future__ import annotations

import time
from typing import Any

import common

from mlm_dist.engine.cards import card


def properties() -> dict[str, Any]:
    """The GPU's name, memory and dense 16-bit peak according to its vendor, None if the card is not listed."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch found no CUDA device; --dry-run needs none")
    name = torch.cuda.get_device_name()
    return {
        "name": name,
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "capability": list(torch.cuda.get_device_capability()),
        "has_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "driver": torch.version.cuda,
        "peak_flops": known.flops if (known := card(name)) else None,
    }


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
