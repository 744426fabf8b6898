"""What saving costs: how long a checkpoint holds training, against writing the same bytes with safetensors alone.

    python benchmarks/checkpoint.py                    # 30M parameters, 5 alternating runs
    python benchmarks/checkpoint.py --parameters 110   # in millions

Prints a table and writes benchmarks/results/checkpoint.json. `hold` is what the loop waits for; hashing, waiting
for the disk and publishing go on in a thread and are reported apart, as is the memory that saving adds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import common
import torch
from accelerate import Accelerator
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from mlm_dist.checkpoint.format import RunState
from mlm_dist.checkpoint.save import Checkpoints


def model_of(millions: int) -> nn.Module:
    """A stack of square layers with so many million parameters, about one million each."""
    return nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(millions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=30, help="in millions")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; by default a temporary folder")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "checkpoint.json")
    arguments = parser.parse_args()

    accelerator = Accelerator(cpu=True)
    core = model_of(arguments.parameters)
    optimizer = torch.optim.AdamW(core.parameters(), fused=True)
    for parameter in core.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    _, prepared = accelerator.prepare(core, optimizer)
    size = 12 * sum(parameter.numel() for parameter in core.parameters())

    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    checkpoints = Checkpoints(folder / "ours", 1, {})
    hold, publish, peer, added = [], [], [], []
    state = prepared.optimizer.state
    try:
        for run in range(arguments.runs + 1):
            os.sync()  # what was written before shall not slow down what is written now
            before = common.reset_peak()
            started = time.perf_counter()
            checkpoints.save(accelerator, core, prepared, RunState(step=run))
            held = time.perf_counter()
            checkpoints.finish(accelerator)
            ended = time.perf_counter()
            peak = common.peak_memory()
            weights = {name: parameter.detach() for name, parameter in core.named_parameters()}
            moments = {
                f"{key}/{name}": state[parameter][key]
                for name, parameter in core.named_parameters()
                for key in ("exp_avg", "exp_avg_sq")
            }
            os.sync()
            alone = time.perf_counter()
            save_file(weights, folder / "model")
            save_file(moments, folder / "moments")
            done = time.perf_counter()
            if run:  # the first warms the disk cache
                hold.append(held - started)
                publish.append(ended - held)
                peer.append(done - alone)
                added.append((peak - before) / size)
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(hold, peer, strict=True))
    result = {
        "bytes": size,
        "runs": arguments.runs,
        "hold_seconds": statistics.median(hold),
        "publish_seconds": statistics.median(publish),
        "safetensors_alone_seconds": statistics.median(peer),
        "hold_over_safetensors": ratio,
        "memory_added_over_bytes": max(added),
    }
    table = Table("", "median", title=f"Saving {size / 2**20:,.0f} MiB, {arguments.runs} alternating runs")
    table.add_row("training held by a save", f"{result['hold_seconds']:.3f} s")
    table.add_row("published in the background after", f"{result['publish_seconds']:.3f} s")
    table.add_row("safetensors alone, the same bytes", f"{result['safetensors_alone_seconds']:.3f} s")
    table.add_row("held / safetensors alone", f"{ratio:.2f}")
    table.add_row("memory added at its peak / bytes saved", f"{result['memory_added_over_bytes']:.2f}")
    common.say(table)
    common.write(arguments.output, **result)


if __name__ == "__main__":
    main()
