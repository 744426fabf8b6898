"""What all benchmarks use: machine and versions, statistics of alternating rounds, memory, and JSON output."""

from __future__ import annotations

import argparse
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "numpy")


LOAD_AT_START = round(os.getloadavg()[0], 2)  # before the benchmark adds its own
# 120 columns are wide enough for the tables where the output is not a terminal.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def machine() -> dict[str, Any]:
    """The machine, and its load when the benchmark began: figures from a busy machine are not reliable."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": LOAD_AT_START,
    }


def versions() -> dict[str, str]:
    """Versions of Python and the libraries."""
    distributions = importlib.metadata.distributions()
    installed = {name.lower() for distribution in distributions if (name := distribution.metadata["Name"])}
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    return {"python": platform.python_version(), **libraries}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def require_known(parser: argparse.ArgumentParser, flag: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """End the program with an error if a name that a flag was given is not one of those it takes."""
    for name in set(wanted) - set(known):
        parser.error(f"{flag}: {name} is not one of {', '.join(known)}")


class Spread(NamedTuple):
    """Median, minimum and maximum of several rounds."""

    median: float
    min: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.min:.3g} to {self.max:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; the deviation of a single value is NaN."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def ratios(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Ratios to a baseline, round by round: what slows the machine down for a while slows down both."""
    return spread([value / other for value, other in zip(values, baseline, strict=True)])


def write(path: Path, **result: Any) -> None:
    """Write a result as JSON, with machine and versions."""
    record = {"machine": machine(), "versions": versions(), "date": time.strftime("%Y-%m-%d"), **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(record), indent=1) + "\n", "utf-8")


def without_folders(argv: Sequence[str]) -> list[str]:
    """The arguments of a program, with the last part of each path alone."""
    return [os.path.basename(word) if os.sep in word else word for word in argv]


def reset_peak() -> int:
    """Reset this process's peak memory; returns its resident memory in bytes. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_memory() -> int:
    """Peak memory of this process in bytes, on its GPU if it uses one, else resident; since its start or the reset."""
    if gpu := _gpu():
        return int(gpu.max_memory_reserved())
    if Path("/proc/self/status").exists():
        return status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes; a parent's peak is in it


def wait_for_gpu() -> None:
    """Wait for the GPU, if this process uses one."""
    if gpu := _gpu():
        gpu.synchronize()


def gemm_peak(seconds: float = 3.0) -> dict[str, float]:
    """The highest FLOP/s of matrix products of several shapes on this machine: {precision: rate}.

    Args:
        seconds: Time per precision; the shapes alternate.
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
    """Values for JSON: spreads as objects, because named tuples would become lists, and null for values not finite."""
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


def status(name: str) -> int:
    """A figure of this process's memory in bytes, by its name in /proc/self/status. Linux only."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
