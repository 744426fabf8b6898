"""The results of benchmarks/gpu.py: utilization, speedups and differences of losses, as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import console
from rich.table import Table

TOLERANCE = 1e-3  # nats by which losses in fp32 may differ between devices


def read(path: Path, device: str) -> dict[str, Any]:
    """{part: {case: result}} of an earlier run on the same device."""
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return dict(results["parts"]) if results.get("device", {}).get("name") == device else {}


def evaluate(parts: dict[str, Any], device: dict[str, Any]) -> None:
    """Add utilization, speedups over Trainer, and differences of losses to the results."""
    measured = parts.get("peak", {}).get("gemm", {})
    peak = device["peak_flops"] or max((rate for rate in measured.values() if isinstance(rate, float)), default=None)
    for part in ("throughput", "ablation", "packed", "sharding"):
        for result in parts.get(part, {}).values():
            if peak and result.get("flops_per_token"):
                result["model_flop_utilization"] = _median(result) * result["flops_per_token"] / peak
    for name, result in parts.get("throughput", {}).items():
        case, _, is_mlm_dist = name.partition(", mlm-dist")
        if is_mlm_dist and "error" not in result:
            result["speedup_over"] = {
                other.removeprefix(f"{case}, "): _median(result) / _median(one)
                for other, one in parts["throughput"].items()
                if other.startswith(f"{case}, Trainer") and "error" not in one
            }
    losses = parts.get("losses", {})
    for name, result in losses.items():
        reference = losses.get("cpu, packed" if name.endswith("packed") else "cpu", {}).get("losses")
        if reference and "losses" in result:
            pairs = zip(result["losses"], reference, strict=True)
            result["largest_difference_to_cpu"] = max(abs(one - other) for one, other in pairs)
            result["agrees"] = result["largest_difference_to_cpu"] <= TOLERANCE


def show(parts: dict[str, Any]) -> None:
    """Print a table per part."""
    for part, cases in parts.items():
        table = Table(part, "tokens/s", "utilization", "speedup", "peak memory", "compilation", "loss agrees")
        for name, result in cases.items():
            if part == "peak":
                table.add_row(name, *(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in result.items()))
                continue
            share, speedups = result.get("model_flop_utilization"), result.get("speedup_over", {})
            table.add_row(
                name if "error" not in result else f"{name}: failed",
                f"{_median(result):,.0f}" if "tokens_per_second" in result else "",
                f"{share:.1%}" if share else "",
                ", ".join(f"{ratio:.2f} over {other}" for other, ratio in speedups.items()),
                f"{result['peak_memory_bytes'] / 2**30:.1f} GiB" if "peak_memory_bytes" in result else "",
                f"{result['compile_seconds']:.0f} s" if result.get("compile_seconds") else "",
                f"{result['agrees']} ({result['largest_difference_to_cpu']:.1e})" if "agrees" in result else "",
            )
        if cases:
            console.print(table)


def _median(result: dict[str, Any]) -> float:
    speed = result["tokens_per_second"]
    return float(speed["median"] if isinstance(speed, dict) else speed.median)
