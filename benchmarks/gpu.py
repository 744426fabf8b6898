"""All measurements on a GPU: speed and utilization, ablations, Trainer, packing, sharding, and losses against the CPU.

    python benchmarks/gpu.py                                   # every part: about an hour and a half on an H100
    python benchmarks/gpu.py --parts throughput,losses         # some of them
    python benchmarks/gpu.py --models bert-base --lengths 128
    python benchmarks/gpu.py --dry-run                         # every part with tiny models on the CPU, as a test

Results are written to results/gpu.json after each case. If the benchmark is interrupted, the same command continues
with the missing cases; --again measures all of them. It needs the repository and its dependencies, but no network.

peak        the highest FLOP/s of matrix products, and the peak that the vendor states
throughput  this project without compilation, regional and whole; Trainer as in the notebook; tuned Trainer
ablation    the regional run without bf16, without the masked head, with an attention mask
packed      one document per row; packed; packed where the variable-length kernel cannot be used
sharding    the same run with FSDP2 and ZeRO-1, 2 and 3, in one process
losses      20 steps in fp32 without dropout, compiled and sharded in every way, compared with the CPU
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
import processes
import workload
from common import console
from gpu_cases import PARTS, cases
from gpu_runs import Scale
from processes import ProcessError

NO_DEVICE = {"name": "none: a dry run on the CPU", "peak_flops": None}


def main() -> None:
    """Measure the cases that have no result."""
    arguments = _arguments()
    scale = _scale(arguments)
    device = processes.call(gpu_device.properties) if scale.on_gpu else NO_DEVICE
    if scale.on_gpu and not device["has_bf16"]:
        scale = dataclasses.replace(scale, precision="fp16")
    console.print(f"{device['name']}, {scale.precision}")
    parts = gpu_results.read(arguments.output, device["name"])
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        for case in cases(scale, logs):
            earlier = parts.setdefault(case.part, {}).get(case.name)
            if case.part not in arguments.parts or (earlier and "error" not in earlier and not arguments.again):
                continue
            began = time.perf_counter()
            try:
                result = case.measure()
            except ProcessError as error:  # such as out of memory; the other cases are still measured
                result = {"error": str(error)[-2000:]}
            parts[case.part][case.name] = result
            gpu_results.evaluate(parts, device)
            common.write(arguments.output, device=device, scale=dataclasses.asdict(scale), parts=parts)
            took = time.perf_counter() - began
            console.print(f"{case.part}: {case.name}: {'failed' if 'error' in result else 'done'} in {took:.0f} s")
    gpu_results.show(parts)
    if any("error" in result for part in arguments.parts for result in parts[part].values()):
        raise SystemExit(f"some cases failed, see {arguments.output}; the same command tries them again")


def _scale(arguments: argparse.Namespace) -> Scale:
    real = Scale(
        on_gpu=True,
        models=("bert-base",),
        lengths=(128, 512),
        vocabulary=workload.VOCABULARY,
        tokens=65_536,
        notebook_rows=16,
        lines=8,
        every=5,
        rounds=5,
        steps=10,
        loss_steps=20,
        source=arguments.source,
        cache=arguments.cache,
        peak_seconds=4.0,
        precision="bf16",
    )
    tiny = dataclasses.replace(
        real,
        on_gpu=False,
        models=("1x32",),
        lengths=(64,),
        vocabulary=1000,
        tokens=256,
        notebook_rows=2,
        lines=1,
        every=1,
        rounds=1,
        steps=1,
        loss_steps=3,
        peak_seconds=0.05,
    )
    scale = tiny if arguments.dry_run else real
    chosen = {"models": arguments.models, "lengths": arguments.lengths, "tokens": arguments.tokens}
    return dataclasses.replace(scale, **{name: value for name, value in chosen.items() if value})


def _arguments() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", type=names, default=PARTS, help=f"some of {', '.join(PARTS)}, separated by commas")
    add("--models", type=names, help="bert-base or LAYERSxHIDDEN, separated by commas")
    add("--lengths", type=lambda text: tuple(map(int, names(text))), help="tokens per row; by default 128,512")
    add("--tokens", type=int, help="tokens of a micro-batch; by default 65536")
    add("--again", action="store_true", help="measure cases that have a result")
    add("--dry-run", action="store_true", help="every part with tiny models on the CPU")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for the output of the runs; by default it is not kept")
    add("--output", type=Path, help="by default results/gpu.json, for a dry run ./gpu_dry_run.json")
    arguments = parser.parse_args()
    for name in set(arguments.parts) - set(PARTS):
        parser.error(f"--parts: {name} is not one of {', '.join(PARTS)}")
    arguments.output = arguments.output or (
        Path("gpu_dry_run.json") if arguments.dry_run else common.RESULTS / "gpu.json"
    )
    return arguments


if __name__ == "__main__":
    main()
