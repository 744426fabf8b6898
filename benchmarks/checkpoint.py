"""Cost of saving: how long a checkpoint blocks training, compared with safetensors writing the same bytes.

    python benchmarks/checkpoint.py                    # 30M parameters, 5 alternating runs
    python benchmarks/checkpoint.py --parameters 110   # in millions

`hold` is the time that the training loop waits. A thread then computes hashes, waits for the disk and publishes the
checkpoint; its time is reported separately, as is the memory that saving adds. Prints a table and writes
results/checkpoint.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import common
import torch
from common import console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from mlm_dist.batches.global_batch import spread
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.config import BatchConfig
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.start import start
from mlm_dist.optim.adamw import ADAMW
from mlm_dist.spec import CheckpointSpec


def model_of(millions: int) -> nn.Module:
    """A stack of square layers of one million parameters each."""
    return nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(millions)))


def main() -> None:
    """Measure alternating runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parameters", type=int, default=30, help="millions of parameters")
    add("--runs", type=int, default=5)
    add("--folder", type=Path, default=None, help="where to write; by default a temporary folder")
    add("--output", type=Path, default=common.RESULTS / "checkpoint.json")
    arguments = parser.parse_args()

    os.environ["ACCELERATE_USE_CPU"] = "true"
    model = model_of(arguments.parameters)
    groups = [{"params": list(model.parameters()), "lr_factor": 1.0, "layout": ADAMW.layout}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    size = 12 * sum(parameter.numel() for parameter in model.parameters())
    names = dict(model.named_parameters())

    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    spec = CheckpointSpec(every=None, keep_last=1, keep_best=False, resume="never")
    batch = spread(BatchConfig(global_size=1), 128, 1)
    checkpoints = Checkpoints(folder / "checkpoints", spec, {}, [batch])
    hold, publish, alone, added = [], [], [], []
    try:
        with start(Launch.read(), batch, None) as engine:
            engine.setup(model, optimizer)
            for run in range(arguments.runs + 1):
                os.sync()  # earlier writes must not slow down later ones
                before = common.reset_peak()
                started = time.perf_counter()
                checkpoints.save(engine, dataclasses.replace(TrainState.new(engine.device), step=run))
                held = time.perf_counter()
                checkpoints.finish(engine)
                published = time.perf_counter()
                peak = common.peak_memory()
                weights = {name: parameter.detach() for name, parameter in names.items()}
                moments = {
                    f"{key}/{name}": optimizer.state[parameter][key]
                    for name, parameter in names.items()
                    for key in ADAMW.layout.moments
                }
                os.sync()
                began = time.perf_counter()
                save_file(weights, folder / "model")
                save_file(moments, folder / "moments")
                done = time.perf_counter()
                if run:  # the first run warms the disk cache
                    hold.append(held - started)
                    publish.append(published - held)
                    alone.append(done - began)
                    added.append((peak - before) / size)
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(held / other for held, other in zip(hold, alone, strict=True))
    result = {
        "bytes": size,
        "runs": arguments.runs,
        "hold_seconds": statistics.median(hold),
        "publish_seconds": statistics.median(publish),
        "safetensors_alone_seconds": statistics.median(alone),
        "hold_over_safetensors": ratio,
        "memory_added_over_bytes": max(added),
    }
    table = Table("", "median", title=f"Saving {size / 2**20:,.0f} MiB, {arguments.runs} alternating runs")
    table.add_row("training waits", f"{result['hold_seconds']:.3f} s")
    table.add_row("then publishing in a thread", f"{result['publish_seconds']:.3f} s")
    table.add_row("safetensors, the same bytes", f"{result['safetensors_alone_seconds']:.3f} s")
    table.add_row("waiting / safetensors", f"{ratio:.2f}")
    table.add_row("added memory (maximum) / bytes saved", f"{result['memory_added_over_bytes']:.2f}")
    console.print(table)
    common.write(arguments.output, **result)


if __name__ == "__main__":
    main()
