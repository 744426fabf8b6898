"""What runs on a GPU, how fast, and whether it computes what a CPU does.

    python benchmarks/gpu.py --quick              # what proves most in 8 minutes
    python benchmarks/gpu.py                      # every case: about an hour on an H100
    python benchmarks/gpu.py --cases facts,kernel # some of them
    python benchmarks/gpu.py --quick --dry-run    # with tiny models on the CPU, as a test
    python benchmarks/gpu.py --store-losses       # on a CPU: the losses that later runs are compared with

Cases are ordered by value. Results are written to results/gpu.json after each case; a benchmark that is started again
continues with the missing cases, and --again measures all of them. It needs the repository and its dependencies, but no
network: documents are made up.

facts    device, driver, versions, and the highest FLOP/s of matrix products
kernel   packed rows on the device in 16 bits against fp32 on the CPU: losses and gradients
run      train.py as launched: 20 losses in fp32 against stored ones of a CPU, a checkpoint and a validation at one
         step, moments in it, a resume
stop     SIGTERM, and the exit code 75
speed    steps of a model, eager and regional: tokens per second, memory against the estimate, no wait for the device
fit      a micro-batch too large for a part of the memory is halved
fp16     a step whose gradients overflow is skipped
save     how long a checkpoint holds training
trainer  Trainer with its fastest settings
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import common
import gpu_device
import gpu_results
import gpu_runs
import processes
import workload
from common import console
from gpu_cases import PARTS, Case, Scale, cases
from processes import ProcessError

MINUTES = 8.0
REAL = Scale(
    on_gpu=True,
    precision="bf16",
    small="2x128",
    models={
        "bert-base": workload.BERT_BASE,
        "modernbert-base": workload.MODERNBERT_BASE,
        "modernbert-large": workload.MODERNBERT_LARGE,
    },
    lengths={128: 128, 512: 512, 1024: 1024, 8192: 8192},
    documents=4000,
    tokens=65_536,
    steps=10,
    seconds=2.0,
)
TINY = dataclasses.replace(
    REAL,
    on_gpu=False,
    small="1x32",
    models={
        "bert-base": workload.TINY_BERT,
        "modernbert-base": workload.TINY_MODERNBERT,
        "modernbert-large": workload.TINY_MODERNBERT,
    },
    lengths={128: 32, 512: 64, 1024: 64, 8192: 64},
    documents=100,
    tokens=256,
    steps=1,
    seconds=0.05,
)


def main() -> None:
    """Measure the cases that have no result, until the time is over."""
    began = time.perf_counter()
    arguments = _arguments()
    scale = dataclasses.replace(TINY if arguments.dry_run else REAL, cache=arguments.cache)
    if arguments.store_losses:
        gpu_runs.store_losses([dataclasses.replace(one, cache=arguments.cache) for one in (TINY, REAL)])
        return
    device = processes.call(gpu_device.properties, scale.on_gpu)
    scale = dataclasses.replace(scale, precision="bf16" if device["has_bf16"] else "fp16")
    console.print(f"{device['name']}, {scale.precision}")
    results = {} if arguments.again else gpu_results.read(arguments.output, device["name"])
    minutes = arguments.minutes or (MINUTES if arguments.quick else None)
    until = None if minutes is None else began + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        for case in cases():
            if not _is_wanted(case, arguments) or "error" not in results.get(case.name, {"error": "missing"}):
                continue
            left = None if until is None else until - time.perf_counter()
            if left is not None and left < case.least_seconds * scale.on_gpu:
                console.print(f"{case.name}: no time left")
                continue
            started = time.perf_counter()
            try:
                result = case.measure(scale, logs, left)
            except ProcessError as error:  # such as out of memory; the other cases are still measured
                result = {"error": str(error)[-2000:]}
            result["seconds"] = round(time.perf_counter() - started, 1)
            results[case.name] = result
            gpu_results.evaluate(results, device)
            common.write(arguments.output, device=device, scale=dataclasses.asdict(scale), cases=results)
            console.print(f"{case.name}: {gpu_results.line(result)} ({result['seconds']:.0f} s)")
    if any(gpu_results.failed(result) for result in results.values()):
        raise SystemExit(f"some cases failed, see {arguments.output}; the same command tries those with errors again")


def _is_wanted(case: Case, arguments: argparse.Namespace) -> bool:
    return (case.is_quick or not arguments.quick) and (not arguments.cases or case.part in arguments.cases)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="the cases that prove most, and no longer than --minutes")
    add("--minutes", type=float, help=f"time limit; by default {MINUTES:.0f} with --quick, else none")
    add("--cases", type=lambda text: text.split(","), help=f"some of {', '.join(PARTS)}, separated by commas")
    add("--again", action="store_true", help="measure cases that have a result")
    add("--dry-run", action="store_true", help="with tiny models on the CPU")
    add("--store-losses", action="store_true", help="write the losses of a CPU, for later comparisons")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for the output of the processes; by default it is not kept")
    add("--output", type=Path, help="by default results/gpu.json, for a dry run ./gpu_dry_run.json")
    arguments = parser.parse_args()
    common.require_known(parser, "--cases", arguments.cases or (), PARTS)
    arguments.output = arguments.output or (
        Path("gpu_dry_run.json") if arguments.dry_run else common.RESULTS / "gpu.json"
    )
    return arguments


if __name__ == "__main__":
    main()
