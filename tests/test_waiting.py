"""Between two log steps no value is read from the device, because that would wait for all its pending work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import launching
import pytest

# `train.py` with a watch on the operations of its main thread that read from the device, by step. The stop flag is
# excluded; it is read at once only on the CPU (see StopSignal).
WATCHED = """
import json, sys, threading
from unittest.mock import patch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from mlm_dist import train
from mlm_dist.batches.loader import TrainingBatches
from mlm_dist.config import parse
from mlm_dist.training.signals import StopSignal

reads, now = {}, {"step": None, "excluded": False}
aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}

def note(name):
    if threading.current_thread() is threading.main_thread() and now["step"] is not None and not now["excluded"]:
        reads.setdefault(now["step"], []).append(name)

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            note(str(func))
        return func(*args, **(kwargs or {}))

def watched(name):
    original = getattr(torch.Tensor, name)
    def method(self, *args, **kwargs):
        note(name)
        return original(self, *args, **kwargs)
    return patch.object(torch.Tensor, name, method)

class Watched(TrainingBatches):
    def __getitem__(self, step):
        now["step"] = step
        return super().__getitem__(step)

agreed = StopSignal.agreed
def excluded(self, result, *, is_logged):
    now["excluded"] = True
    found = agreed(self, result, is_logged=is_logged)
    now["excluded"] = False
    return found

with patch.object(train, "TrainingBatches", Watched), patch.object(StopSignal, "agreed", excluded), Watch(), \\
        watched("cpu"), watched("tolist"), watched("item"):
    train.run(parse(sys.argv[1:]))
print(json.dumps(reads))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["chunk", "pack"])
def test_device_is_not_read_between_log_steps(mode: str, tmp_path: Path, prepared_cache: Path) -> None:
    ended = launching.run(
        [
            *(
                sys.executable,
                "-c",
                WATCHED,
                f"--corpus.cache_dir={prepared_cache}",
                f"--output_dir={tmp_path / 'run'}",
            ),
            *("--optim.duration=10 steps", "--logging.every=5", "--validation.every=null", "--checkpoint.every=null"),
            *("--batch.global_size=16", "--batch.micro_size=8", f"--rows.mode={mode}", *launching.TINY),
            *launching.DROPOUT,
        ]
    )
    assert ended.returncode == 0, ended.output
    reads = json.loads(ended.stdout.splitlines()[-1])
    assert set(reads) <= {"4", "9"}, reads
    assert set(reads) == {"4", "9"}, "nothing was watched"
