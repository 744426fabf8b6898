"""Scaling with processes: measured with one core each, and a model of larger machines.

    python benchmarks/scaling.py                                    # DDP on 1 and 2 cores: ~6 minutes
    python benchmarks/scaling.py --topologies cpu_2,zero1,zero2,zero3
    python benchmarks/scaling.py --predict --flops 1.5e11 --memory 2e10 --bandwidth 8e8 --latency 0 --overlap 0

Measured: `accelerate launch` of `train.py` with each process on a core of its own, so that two processes have twice the
hardware. `weak` doubles the batch with the processes, `strong` keeps it. The runs alternate. An all-reduce of as many
bytes as the gradients have is measured separately. Prints a table and writes results/scaling.json.

--predict prints a model of the time of a step for a machine with the given properties, without measuring anything. See
docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import processes
import systems
import workload
from common import console
from processes import ProcessError
from rich.table import Table
from step_time import Hardware, fit, show_prediction

ROOT = Path(__file__).resolve().parent.parent
AS_RANK = "--as-rank"  # this file, launched as one process of a run
EVERY = 4  # steps between two lines of metrics.jsonl


def run(topology: str, num_processes: int, batch: int, flags: list[str], steps: int) -> float:
    """Tokens per second of a run: the median of its lines, without the first two."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'configs' / 'accelerate' / topology}.yaml",
            f"--num_processes={num_processes}",
            f"--main_process_port={common.free_port()}",
            *(["--mixed_precision=bf16"] if topology.startswith("cpu") else []),  # DeepSpeed's file sets its own
            *(str(Path(__file__).resolve()), AS_RANK, str(steps), *flags),
            *(f"--output_dir={folder}/run", f"--batch.global_size={batch}", f"--logging.every={EVERY}"),
            *("--optim.duration=1000000 steps", "--validation.every=null", "--checkpoint.every=null"),
        ]
        environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RANK")}
        ended = subprocess.run(
            command, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
        )
        path = Path(folder) / "run" / "metrics.jsonl"
        if ended.returncode or not path.exists():
            output = ended.stdout[-1500:] + ended.stderr[-3000:]
            raise ProcessError(f"{topology} with {num_processes} processes failed:\n{output}")
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return float(statistics.median([line["tokens_per_second"] for line in lines if line["kind"] == "train"][2:]))


def as_rank(steps: int, flags: list[str]) -> None:
    """Run one process of a run on a core of its own, for a number of steps; no model is saved."""
    _pin(int(os.environ.get("LOCAL_RANK", "0")))
    calls = itertools.count()

    def before_step() -> None:
        if next(calls) == steps:
            os._exit(0)  # at the same step in every process

    systems.train_with(before_step, flags)


def all_reduce_seconds(num_bytes: int) -> float:
    """Seconds of an all-reduce without training, the median of several; called on every process."""
    import torch
    import torch.distributed as dist

    _pin(int(os.environ["RANK"]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    values = torch.ones(num_bytes // 4)
    times = []
    for _ in range(6):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - began)
    dist.destroy_process_group()
    return statistics.median(times[1:])


def memory_bandwidth(num_bytes: int = 1 << 28) -> float:
    """Bytes/s that one core reads and writes when it adds long vectors, the best of several times."""
    import torch

    _pin(0)
    torch.set_num_threads(1)
    left, right, total = (torch.ones(num_bytes // 4) for _ in range(3))
    times = []
    for _ in range(6):
        began = time.perf_counter()
        torch.add(left, right, out=total)
        times.append(time.perf_counter() - began)
    return 3 * num_bytes / min(times)


def measure(arguments: argparse.Namespace) -> None:
    """Measure all topologies, and fit the model's parameters to this machine."""
    shape = workload.shape(arguments.model, arguments.vocabulary)
    flags, _, rows = processes.call(
        workload.full_rows, arguments.source, arguments.vocabulary, arguments.length, arguments.cache
    )
    flags += ["--model.name_or_path=bert", f"--model.overrides={json.dumps(shape.overrides)}", *arguments.flags]
    batch = min(arguments.rows, rows // 2)
    steps = EVERY * (2 + arguments.lines)
    runs = {"1 process": ("cpu", 1, batch)}
    for topology in arguments.topologies:
        runs[f"{topology}, weak"] = (topology, 2, 2 * batch)
        runs[f"{topology}, strong"] = (topology, 2, batch)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, (topology, num_processes, size) in runs.items():
            speeds[name].append(run(topology, num_processes, size, flags, steps))
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(common.free_port())}
    environments = [group | {"RANK": str(rank)} for rank in range(2)]
    all_reduce = max(processes.call_all(all_reduce_seconds, 4 * shape.num_parameters, environments=environments))

    title = f"{shape.name}, {batch} rows of {arguments.length} tokens"
    table = Table("", "tokens/s", "speedup over 1 process", title=title)
    speedups = {name: common.ratios(values, speeds["1 process"]) for name, values in speeds.items()}
    for name, values in speeds.items():
        table.add_row(name, f"{statistics.median(values):,.0f}", str(speedups[name]))
    console.print(table)
    result: dict[str, Any] = {
        "model": arguments.model,
        "length": arguments.length,
        "batch": batch,
        "tokens_per_second": speeds,
        "speedup": speedups,
        "all_reduce_seconds": all_reduce,
    }
    weak = speeds.get("cpu_2, weak")
    if weak:
        one, two = statistics.median(speeds["1 process"]), statistics.median(weak)
        bandwidth = processes.call(memory_bandwidth)
        fitted = fit(shape, arguments.length, batch, one, two, all_reduce, bandwidth)
        console.print(f"fitted: {fitted}")
        result["fitted"] = vars(fitted)
    common.write(arguments.output, **result)


def _pin(rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def main() -> None:
    """Measure, or print the model's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="bert-base or LAYERSxHIDDEN; by default 6x384, with --predict bert-base")
    add("--length", type=int, default=128, help="tokens per row")
    add("--rows", type=int, help="rows per process and step; by default 16, with --predict 512")
    add("--vocabulary", type=int, default=workload.VOCABULARY)
    add("--topologies", type=lambda text: text.split(","), default=["cpu_2"], help="files of configs/accelerate")
    add("--rounds", type=int, default=5, help="runs of each, alternating")
    add("--lines", type=int, default=4, help=f"lines of {EVERY} steps each that count in a run")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "scaling.json")
    add("--predict", action="store_true", help="print the model's table for the machine that the next flags describe")
    add("--processes", type=int, default=64, help="with --predict: processes at most")
    for name, text in (
        ("flops", "FLOP/s that a process reaches in training"),
        ("memory", "bytes/s of its memory"),
        ("bandwidth", "bytes/s that each process sends"),
        ("latency", "seconds of a collective, per process"),
        ("overlap", "fraction of the backward pass that communication overlaps with"),
    ):
        add(f"--{name}", type=float, help=f"with --predict, required: {text}")
    add("flags", nargs="*", help="after --: further flags of train.py")
    arguments = parser.parse_args()
    if arguments.predict:
        properties = {item.name: getattr(arguments, item.name) for item in dataclasses.fields(Hardware)}
        missing = [f"--{name}" for name, value in properties.items() if value is None]
        if missing:
            parser.error(f"--predict needs {', '.join(missing)}: measured values of the machine")
        shape = workload.shape(arguments.model or "bert-base", arguments.vocabulary)
        show_prediction(shape, arguments.length, arguments.rows or 512, Hardware(**properties), arguments.processes)
    else:
        arguments.rows, arguments.model = arguments.rows or 16, arguments.model or "6x384"
        measure(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == [AS_RANK]:
        as_rank(int(sys.argv[2]), sys.argv[3:])
    else:
        main()
