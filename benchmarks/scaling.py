"""What more processes bring: measured with one core each, and a model of larger machines.

    python benchmarks/scaling.py                                    # DDP on 1 and 2 cores: ~6 minutes
    python benchmarks/scaling.py --topologies cpu_2,zero1,zero2,zero3
    python benchmarks/scaling.py --predict --flops 4e14 --bandwidth 2e11 --overlap 0.9    # the model alone

Measured: `accelerate launch` of `train.py`, each process pinned to a core of its own, so that two have twice the
hardware of one. `weak` doubles the batch with the processes, `strong` keeps it. The runs alternate. With them an
all-reduce of as many bytes as the gradients have is timed alone. Writes results/scaling.json.

The model (see docs/performance.md) is a model: it says what would be so if communication were as simple as it takes it.
"""

from __future__ import annotations

import argparse
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
import contenders
import workload
from common import say
from contest import Failed, apart, together
from rich.table import Table
from step_time import Hardware, fit, show_prediction

ROOT = Path(__file__).resolve().parent.parent
AS_RANK = "--as-rank"  # this file, launched as one process of a run
EVERY = 4  # updates between two lines of metrics.jsonl


def run(topology: str, processes: int, batch: int, flags: list[str], steps: int) -> float:
    """Tokens per second of a run: the median of its lines but the first two."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'configs' / 'accelerate' / topology}.yaml",
            f"--num_processes={processes}",
            f"--main_process_port={common.free_port()}",
            *(["--mixed_precision=bf16"] if topology.startswith("cpu") else []),  # DeepSpeed's file has its own
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
            raise Failed(f"{topology} with {processes} processes failed:\n{ended.stdout[-1500:]}{ended.stderr[-3000:]}")
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return float(statistics.median([line["tokens_per_second"] for line in lines if line["kind"] == "train"][2:]))


def as_rank(steps: int, flags: list[str]) -> None:
    """Be one process of a run, on a core of its own; so many updates, and no model is saved at the end."""
    _pin(int(os.environ.get("LOCAL_RANK", "0")))
    calls = itertools.count()

    def boundary() -> None:
        if next(calls) == steps:
            os._exit(0)  # at the same update in every process

    contenders.train_with(boundary, flags)


def all_reduce_seconds(num_bytes: int) -> float:
    """How long an all-reduce takes when nothing else happens, the median of some; call it on every process."""
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
    """Bytes/s that one core reads and writes when it adds long vectors, the best of some."""
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
    """Measure all topologies, and fit the model's parameters for this machine."""
    shape = workload.shape(arguments.model, arguments.vocabulary)
    flags, _, rows = apart(
        workload.full_rows, arguments.source, arguments.vocabulary, arguments.length, arguments.cache
    )
    flags += ["--model.name_or_path=bert", f"--model.overrides={json.dumps(shape.overrides)}", *arguments.keys]
    batch = min(arguments.rows, rows // 2)
    steps = EVERY * (2 + arguments.lines)
    runs = {"1 process": ("cpu", 1, batch)}
    for topology in arguments.topologies:
        runs[f"{topology}, weak"] = (topology, 2, 2 * batch)
        runs[f"{topology}, strong"] = (topology, 2, batch)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, (topology, processes, size) in runs.items():
            speeds[name].append(run(topology, processes, size, flags, steps))
    port = str(common.free_port())
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [meeting | {"RANK": str(rank)} for rank in range(2)]
    alone = max(together(all_reduce_seconds, 4 * shape.num_parameters, environments=environments))

    table = Table("", "tokens/s", "times 1 process", title=f"{shape.name}, {batch} rows of {arguments.length} tokens")
    for name, those in speeds.items():
        table.add_row(name, f"{statistics.median(those):,.0f}", str(common.ratios(those, speeds["1 process"])))
    say(table)
    result: dict[str, Any] = {
        "model": arguments.model,
        "length": arguments.length,
        "batch": batch,
        "tokens_per_second": speeds,
        "times_one_process": {name: common.ratios(those, speeds["1 process"]) for name, those in speeds.items()},
        "all_reduce_seconds": alone,
    }
    weak = speeds.get("cpu_2, weak")
    if weak:
        one, two = statistics.median(speeds["1 process"]), statistics.median(weak)
        fitted = fit(shape, arguments.length, batch, one, two, alone, apart(memory_bandwidth))
        say(f"fitted: {fitted}")
        result["fitted"] = vars(fitted)
    common.write(arguments.output, **result)


def _pin(rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def main() -> None:
    """Measure, or print what the model says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="bert-base, or LAYERSxHIDDEN; by default 6x384 measured, bert-base predicted")
    add("--length", type=int, default=128, help="tokens per row")
    add("--rows", type=int, help="per process and update; by default 16 measured, 512 predicted")
    add("--vocabulary", type=int, default=workload.VOCABULARY)
    add("--topologies", type=lambda text: text.split(","), default=["cpu_2"], help="files of configs/accelerate")
    add("--rounds", type=int, default=5, help="runs of each, alternating")
    add("--lines", type=int, default=4, help=f"of {EVERY} updates each that count in a run")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "scaling.json")
    add("--predict", action="store_true", help="print the model's table alone, for the machine that these describe")
    add("--processes", type=int, default=64, help="up to so many")
    add("--flops", type=float, default=4e14, help="FLOP/s a process reaches in training")
    add("--memory", type=float, default=3e12, help="bytes/s of its memory")
    add("--bandwidth", type=float, default=2e11, help="bytes/s each sends")
    add("--latency", type=float, default=5e-6, help="seconds of a collective, per process")
    add("--overlap", type=float, default=0.9, help="share of the backward pass under which communication hides")
    add("keys", nargs="*", help="after --: further flags of train.py")
    arguments = parser.parse_args()
    if arguments.predict:
        names = ("flops", "memory", "bandwidth", "latency", "overlap")
        hardware = Hardware(**{name: getattr(arguments, name) for name in names})
        shape = workload.shape(arguments.model or "bert-base", arguments.vocabulary)
        show_prediction(shape, arguments.length, arguments.rows or 512, hardware, arguments.processes)
    else:
        arguments.rows, arguments.model = arguments.rows or 16, arguments.model or "6x384"
        measure(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == [AS_RANK]:
        as_rank(int(sys.argv[2]), sys.argv[3:])
    else:
        main()
