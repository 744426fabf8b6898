"""A long run needs as much memory, and as many threads and open files, at its end as at its beginning."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import launching
import psutil
import pytest
from forked_ranks import Ranks

NUM_STEPS = int(os.environ.get("MLM_DIST_STEPS", "3000"))
MEMORY_SLACK = 8 << 20  # bytes, of 600 MiB, between the peaks of both halves of a run


class Sample(NamedTuple):
    """What a process holds at a step."""

    step: int
    memory: int
    threads: int
    files: int


def flags(run: Path, cache: Path, num_steps: int) -> list[str]:
    """A run that saves, validates and logs often."""
    return [
        *(f"--corpus.source={cache / 'documents'}", f"--corpus.cache_dir={cache}", f"--output_dir={run}"),
        *(f"--optim.duration={num_steps} steps", "--batch.global_size=4", "--logging.every=5"),
        *("--checkpoint.every=50", "--validation.every=100", *launching.TINY),
    ]


def watch(topology: str, run: Path, cache: Path, num_steps: int) -> list[list[Sample]]:
    """Samples of each rank while it trains, first to last."""
    found: list[list[Sample]] = []
    with Ranks(topology, flags(run, cache, num_steps), run.with_suffix(".txt")) as ranks:
        processes = [psutil.Process(process.pid) for process in ranks.processes]
        found = [[] for _ in processes]
        size = 0
        while all(process.exitcode is None for process in ranks.processes):
            metrics = run / "metrics.jsonl"
            if metrics.exists() and metrics.stat().st_size > size:
                size = metrics.stat().st_size
                lines = launching.metrics(run, "train")
                if lines and lines[-1]["step"] == num_steps:
                    break  # the export needs memory of its own
                for samples, process in zip(found, processes, strict=True):
                    memory, threads = process.memory_info().rss, process.num_threads()
                    samples.append(Sample(lines[-1]["step"] if lines else 0, memory, threads, process.num_fds()))
            time.sleep(0.05)
        codes = ranks.end(timeout=300)
        assert codes == [0] * len(codes), ranks.output
    return found


def check_flat(samples: list[Sample], num_steps: int) -> None:
    """Threads and files: medians of the fifth tenth of the run and of its last. Memory: peaks of both halves.

    The resident memory is no smooth curve: for some hundred steps the heap grows into the blocks that training, saving
    and the report need at the same time, and now and then a part of it goes back to the system.
    """
    first = [sample for sample in samples if 4 * num_steps <= 10 * sample.step < 5 * num_steps]
    last = [sample for sample in samples if 9 * num_steps <= 10 * sample.step]
    trace = [(one.step, round(one.memory / 1e6, 1), *one[2:]) for one in samples[:: max(1, len(samples) // 40)]]
    assert len(first) >= 3 <= len(last), f"too few samples: {trace}"
    for name in ("threads", "files"):
        before, after = (statistics.median(getattr(sample, name) for sample in part) for part in (first, last))
        assert after <= before, f"{name}: {before} -> {after} in {trace}"
    before = max(sample.memory for sample in samples if 2 * sample.step < num_steps)
    after = max(sample.memory for sample in samples if 2 * sample.step >= num_steps)
    assert after <= before + MEMORY_SLACK, f"memory: {before} -> {after} in {trace}"


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one", "two", "zero2", "fsdp2"])
def test_long_run_holds_no_more_at_its_end(topology: str, tmp_path: Path, small: tuple[Path, int]) -> None:
    for samples in watch(topology, tmp_path / "run", small[0], NUM_STEPS):
        check_flat(samples, NUM_STEPS)


def test_leak_would_be_seen() -> None:
    flat = [Sample(step, 10**9, 8, 30) for step in range(0, 1000, 5)]
    check_flat(flat, 1000)
    for name, value in (("memory", 20_000), ("threads", 0.01), ("files", 0.01)):
        leaking = [sample._replace(**{name: getattr(sample, name) + int(value * sample.step)}) for sample in flat]
        with pytest.raises(AssertionError, match=name):
            check_flat(leaking, 1000)
