"""What ranks do together, as JSON in rank-N.json of a folder. Started by torch.distributed.run."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from specs import ONE_BATCH
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mlm_dist.engine import shards, start
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError, MlmDistError
from mlm_dist.optim.adamw import ADAMW

TIMEOUT_SECONDS, LONG_SECONDS = 2.0, 5.0
SHAPES = ((5, 3), (1, 4), (7,), (4, 2), (3, 2, 2))


class Weights(nn.Module):
    """Parameters whose rows are, and are not, divisible by the number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        for i, shape in enumerate(SHAPES):
            values = torch.arange(float(torch.Size(shape).numel())).view(shape) + 100 * i
            self.register_parameter(f"weight_{i}", nn.Parameter(values))

    def has_unused(self) -> bool:
        """See `LossModel`."""
        return False


def waits(engine: Engine) -> dict[str, Any]:
    """Rank 0 works for longer than the process group would wait, then fails."""

    def work() -> dict[str, int]:
        time.sleep(LONG_SECONDS)
        return {"step": 7}

    def fail() -> None:
        time.sleep(LONG_SECONDS)
        raise ConfigError("output_dir: no")

    answer = engine.on_main(work)
    try:
        engine.on_main(fail)
        error = ""
    except MlmDistError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"answer": answer, "nothing": engine.on_main(lambda: None), "error": error}


def shard(engine: Engine) -> list[dict[str, Any]]:
    """Each parameter gathered from the shards that FSDP2 makes, and made again from rows of the whole."""
    whole = {name: value.detach().clone() for name, value in Weights().named_parameters()}
    module = Weights()
    fully_shard(module, mesh=init_device_mesh("cpu", (engine.world_size,)))
    found = []
    for name, parameter in module.named_parameters():
        asked: list[list[int]] = []

        def read(rows: slice, name: str = name, asked: list[list[int]] = asked) -> torch.Tensor:
            asked.append([rows.start, rows.stop])
            return whole[name][rows].clone()

        gathered = shards.gathered(parameter, is_main=engine.is_main)
        again: Any = shards.sharded_like(parameter, read)
        theirs: Any = parameter
        found.append(
            {
                "gathered": None if gathered is None else torch.equal(gathered, whole[name]),
                "asked": asked,
                "same_shard": torch.equal(again.to_local(), theirs.to_local()),
                "same_layout": (again.shape, again.stride(), again.placements)
                == (theirs.shape, theirs.stride(), theirs.placements),
                "whole": torch.equal(again.full_tensor(), whole[name]),
            }
        )
    return found


def wrapped(engine: Engine) -> dict[str, Any]:
    """A module under DDP, whose weights rank 0 alone reads."""
    module = Weights()
    group = {"params": [*module.parameters()], "lr_factor": 1.0, "frozen_in": (), "layout": ADAMW.layout}
    engine.setup(module, torch.optim.AdamW([group], fused=True))
    values = dict(engine.parameters())
    return {
        "broadcast_buffers": engine.model.broadcast_buffers,
        "values": [value is not None for value in values.values()],
        "moments": [value is not None for _, value in engine.moments()],
    }


if __name__ == "__main__":
    timeout = start.TIMEOUT
    start.TIMEOUT = timedelta(seconds=TIMEOUT_SECONDS)
    with start.start(Launch.read(), ONE_BATCH, None) as running:
        outcome = {
            "timeout_hours": timeout.total_seconds() / 3600,
            "waits": waits(running),
            "shards": shard(running),
            "ddp": wrapped(running),
        }
        Path(sys.argv[1], f"rank-{running.rank}.json").write_text(json.dumps(outcome), "utf-8")
