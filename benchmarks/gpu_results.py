"""The results of benchmarks/gpu.py: utilization, and whether losses agree with those of a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "results" / "gpu_losses.json"
TOLERANCE = 1e-3  # nats by which losses in fp32 may differ between devices


def read(path: Path, device: str) -> dict[str, Any]:
    """{case: result} of an earlier benchmark on the same device."""
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return dict(results.get("cases", {})) if results.get("device", {}).get("name") == device else {}


def evaluate(results: dict[str, Any], device: dict[str, Any]) -> None:
    """Add to speeds the share of the peak, measured if the card is not in the table, and the speedup over Trainer."""
    measured = results.get("facts", {}).get("measured_flops", {})
    peak = device["peak_flops"] or max(measured.values(), default=None)
    for one in (one for result in results.values() for one in (result, *result.values()) if isinstance(one, dict)):
        if peak and "flops_per_token" in one:
            one["model_flop_utilization"] = _median(one) * one["flops_per_token"] / peak
    for name, result in results.items():
        part, _, case = name.partition(", ")
        ours = results.get(f"speed, {case}", {}).get("regional", {}).get("tokens_per_second")
        if part == "trainer" and ours and "trainer" in result:
            result["speedup"] = ours / _median(result["trainer"])


def _median(one: dict[str, Any]) -> float:
    speed = one["tokens_per_second"]
    return float(speed["median"] if isinstance(speed, dict) else getattr(speed, "median", speed))


def compared(losses: list[float], expected: list[float]) -> dict[str, Any]:
    """Losses, their largest difference to those of a CPU, and whether it is small."""
    difference = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
    return {"losses": losses, "largest_difference_to_cpu": difference, "agrees": difference <= TOLERANCE}


def failed(result: dict[str, Any]) -> bool:
    """Whether a case could not be measured, or found a difference or a wait for the device."""
    parts = [result, *(one for one in result.values() if isinstance(one, dict))]
    return any("error" in one or one.get("agrees") is False or one.get("waits_for_the_device") for one in parts)


def line(result: dict[str, Any]) -> str:
    """A result in one line."""
    if "error" in result:
        return f"failed: {result['error'].strip().splitlines()[-1]}"
    parts = []
    for name, one in result.items():
        if isinstance(one, dict) and "tokens_per_second" in one:
            share = one.get("model_flop_utilization")
            parts.append(f"{name} {_median(one):,.0f} tokens/s" + (f" ({share:.1%})" if share else ""))
        elif isinstance(one, dict) and "error" in one:
            parts.append(f"{name} failed")
        elif name in ("agrees", "hold_seconds", "exit_code", "rows", "moments", "speedup", "skipped_steps"):
            parts.append(f"{name} {one}")
    return ", ".join(parts) or ("done, with differences" if failed(result) else "done")
