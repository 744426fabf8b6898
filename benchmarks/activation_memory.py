"""Memory and time of a step with and without activation checkpointing, and the memory that `plan` says.

    python benchmarks/activation_memory.py --source my_docs
    python benchmarks/activation_memory.py --source my_docs --model bert --max-length 512 --global-size 16

Each run is `train.py` in a process of its own, on rows of --max-length tokens. Peak memory is the largest resident
memory of the process, from its start to its end, with validation and the export. Seconds per step are the median of
all steps but the first. Losses must be the same with and without. Prints a table and writes
results/activation_memory.json.
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
from pathlib import Path
from typing import Any

import common
from common import console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SMALL = '{"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}'


def measure(flags: list[str], precision: str, checkpointing: str, folder: Path) -> dict[str, Any]:
    """Peak memory, its estimate, seconds per step and losses of a run."""
    run = folder / f"{precision}-{checkpointing}"
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": precision, "PYTHONPATH": str(ROOT)}
    flags = [*flags, f"--output_dir={run}", f"--model.checkpointing={checkpointing}"]
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "mlm_dist/train.py", *flags], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"wait status {status}\n" + (folder / "log.txt").read_text("utf-8"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    tokens = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(steps)]
    seconds = [count / line["tokens_per_second"] for count, line in zip(tokens, steps[1:], strict=True)]
    return {
        "precision": precision,
        "checkpointing": checkpointing,
        "peak_bytes": usage.ru_maxrss << 10,
        "estimated_bytes": estimate(flags, environment),
        "seconds_per_step": statistics.median(seconds),
        "losses": [line["loss"] for line in steps],
    }


def estimate(flags: list[str], environment: dict[str, str]) -> int:
    """What `plan` says that a process needs."""
    from mlm_dist.config import parse
    from mlm_dist.engine.launch import Launch
    from mlm_dist.resolve import resolve

    total: int = resolve(parse(flags, prog="plan.py"), Launch.read(environment)).memory.total
    return total


def table(results: list[dict[str, Any]]) -> Table:
    """The results, a row for each run."""
    made = Table("precision", "checkpointing", "peak memory, GiB", "by plan, GiB", "plan / peak", "seconds per step")
    for one in results:
        peak, estimated = one["peak_bytes"], one["estimated_bytes"]
        made.add_row(
            *(one["precision"], one["checkpointing"], f"{peak / 2**30:.2f}", f"{estimated / 2**30:.2f}"),
            *(f"{estimated / peak:.2f}", f"{one['seconds_per_step']:.3g}"),
        )
    return made


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="documents, long enough to fill the rows")
    parser.add_argument("--model", default="modernbert")
    parser.add_argument("--overrides", default=SMALL)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--global-size", type=int, default=1, help="rows per step, in one micro-batch")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["no", "bf16"])
    parser.add_argument("--output", type=Path, default=common.RESULTS / "activation_memory.json")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [
            *(f"--corpus.source={arguments.source}", f"--corpus.cache_dir={folder / 'cache'}"),
            *(f"--model.name_or_path={arguments.model}", f"--model.overrides={arguments.overrides}"),
            *("--tokenizer.train_vocab_size=4096", f"--rows.max_length={arguments.max_length}", "--rows.mode=pack"),
            *(f"--batch.global_size={arguments.global_size}", f"--batch.micro_size={arguments.global_size}"),
            *(f"--optim.duration={arguments.steps} steps", "--logging.every=1", "--export.verify=false"),
        ]
        results = [
            measure(flags, precision, checkpointing, folder)
            for precision in arguments.precision
            for checkpointing in ("none", "layers")
        ]
    console.print(table(results))
    settings = {name: value for name, value in vars(arguments).items() if name not in ("source", "output")}
    common.write(arguments.output, settings=settings, results=results)


if __name__ == "__main__":
    main()
