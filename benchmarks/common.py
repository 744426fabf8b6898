"""What all benchmarks share: who measured, what alternating rounds say, memory, and the JSON they write."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import resource
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "numpy")


LOAD_AT_START = round(os.getloadavg()[0], 2)  # before the benchmark makes its own
# For the person at the screen; wide enough for a table where there is none.
say = Console(highlight=False, width=None if sys.stdout.isatty() else 120).print


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was when the benchmark began: a machine in use gives no good figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": LOAD_AT_START,
    }


def versions() -> dict[str, str]:
    """Python's and the libraries' versions."""
    installed = {name.lower() for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    found = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    return {"python": platform.python_version(), **found}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Spread(NamedTuple):
    """The median of some rounds, with the least and the greatest."""

    median: float
    min: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.min:.3g} to {self.max:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest."""
    return Spread(statistics.median(values), min(values), max(values))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, which of a single value is not a number."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round, ours over theirs: what slows the machine down for a while slows down both."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def write(path: Path, **result: Any) -> None:
    """Write what was measured, with machine and versions."""
    whole = {"machine": machine(), "versions": versions(), "date": time.strftime("%Y-%m-%d"), **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(whole), indent=1) + "\n", "utf-8")


def reset_peak() -> int:
    """Forget this process's peak memory, and return what it has now, in bytes; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory() -> int:
    """The most memory this process had on its GPU, or resident where it has none, since it began or since the reset."""
    if gpu := _gpu():
        return int(gpu.max_memory_reserved())
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes; a parent's peak is in it


def wait_for_gpu() -> None:
    """Wait until a GPU has done what this process gave it to do, if it did."""
    if gpu := _gpu():
        gpu.synchronize()


def gemm_peak(seconds: float = 3.0) -> dict[str, float]:
    """The most FLOP/s this machine reaches in a matrix product, {precision: rate}: the best of several shapes.

    Args:
        seconds: How long each precision is tried; the shapes take turns.
    """
    import torch

    torch.set_num_threads(num_cores())
    shapes = [(2048, 768, 3072), (2048, 3072, 768), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 4096)]
    best: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        pairs = [(torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)) for m, k, n in shapes]
        outputs = [torch.mm(left, right) for left, right in pairs]  # the first call plans the kernel
        until = time.perf_counter() + seconds
        rate = 0.0
        while time.perf_counter() < until:
            for (m, k, n), (left, right), output in zip(shapes, pairs, outputs, strict=True):
                began = time.perf_counter()
                torch.mm(left, right, out=output)
                rate = max(rate, 2 * m * k * n / (time.perf_counter() - began))
        best[name] = rate
    return best


def _plain(value: Any) -> Any:
    """Spreads as objects, as named tuples would become bare lists; and null for what is not finite."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _gpu() -> Any:
    """torch.cuda, if this process uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
