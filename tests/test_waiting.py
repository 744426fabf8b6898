"""Between two log lines nothing asks the device for a value, which would wait for all that it was given to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import launching
import pytest

# `train.py` itself, watched: which questions its main thread asks in each update. The stop flag is left out, which is
# read at once on the CPU alone (see StopSignal).
WATCHED = """
import json, sys, threading
from unittest.mock import patch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from mlm_dist import train
from mlm_dist.batching.loader import TrainingBatches
from mlm_dist.config import parse
from mlm_dist.training.guard import StopSignal

asked, now = {}, {"step": None, "aside": False}
aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}

def note(name):
    if threading.current_thread() is threading.main_thread() and now["step"] is not None and not now["aside"]:
        asked.setdefault(now["step"], []).append(name)

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            note(str(func))
        return func(*args, **(kwargs or {}))

def told(name):
    original = getattr(torch.Tensor, name)
    def method(self, *args, **kwargs):
        note(name)
        return original(self, *args, **kwargs)
    return patch.object(torch.Tensor, name, method)

class Watched(TrainingBatches):
    def window(self, step):
        now["step"] = step
        return super().window(step)

agreed = StopSignal.agreed
def aside(self, result, *, line_due):
    now["aside"] = True
    found = agreed(self, result, line_due=line_due)
    now["aside"] = False
    return found

with patch.object(train, "TrainingBatches", Watched), patch.object(StopSignal, "agreed", aside), Watch(), \\
        told("cpu"), told("tolist"), told("item"):
    train.main(parse(sys.argv[1:]))
print(json.dumps(asked))
"""


@pytest.mark.parametrize("mode", ["chunk", pytest.param("pack", marks=pytest.mark.slow)])
def test_nothing_waits_off_the_logging_path(mode: str, tmp_path: Path, prepared_cache: Path) -> None:
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
            "--model.overrides={hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}",
        ]
    )
    assert ended.returncode == 0, ended.output
    asked = json.loads(ended.stdout.splitlines()[-1])
    assert set(asked) <= {"4", "9"}, asked
    assert set(asked) == {"4", "9"}, "nothing was watched"
