"""Steps of `train.py` on a GPU, in this process: their speed, memory and faults; called by benchmarks/gpu.py."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import workload

from mlm_dist import train
from mlm_dist.config import parse
from mlm_dist.engine.launch import Launch
from mlm_dist.faults import VARIABLE as FAULT
from mlm_dist.resolve import resolve
from mlm_dist.training.callbacks import Callback

WARMUP = 3  # steps that do not count; compilation is in the first one
COMPILE = ("none", "regional")
DROPOUT = "attention_probs_dropout_prob"


class EnoughError(Exception):
    """Ends a run after the steps that were wanted."""


@dataclass(frozen=True)
class Work:
    """A model and its rows.

    Args:
        model: Its name in the scale.
        length: Tokens per row; a dry run takes fewer.
        packed: Whether rows hold several documents, instead of being cut from one.
        dropout: Whether attention has its default dropout.
        flags: Further flags of `train.py`.
    """

    model: str
    length: int
    packed: bool = False
    dropout: bool = True
    flags: Sequence[str] = ()


class Probe(Callback):
    """Measures steps: some warm up, `steps` count, and in one more the device may not be waited for.

    Args:
        steps: Steps that count.
        on_gpu: Whether there is a GPU to wait for.
    """

    def __init__(self, steps: int, *, on_gpu: bool) -> None:
        self._steps, self._on_gpu = steps, on_gpu
        self._last = self._began = time.perf_counter()
        self.first = self.seconds = self.held = math.nan
        self.peak = 0
        self.waits = "not reached"

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        if step <= WARMUP + self._steps:
            common.wait_for_gpu()
        now = self._last = time.perf_counter()
        if step == 1:
            self.first = now - self._began
        if step == WARMUP:
            self._began = now
        if step == WARMUP + self._steps:
            self.seconds, self.peak = (now - self._began) / self._steps, common.peak_memory()
            _allow_waits(not self._on_gpu)
            self.waits = "while logging or loading"  # unless the next step ends
        if step == WARMUP + self._steps + 1:
            self.waits = ""
            raise EnoughError

    def on_checkpoint(self, step: int, path: Path) -> None:
        """See `Callback`."""
        self.held = time.perf_counter() - self._last


def _allow_waits(allowed: bool) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default" if allowed else "error")


def _flags(scale: Any, work: Work) -> list[str]:
    """The flags of a step of `scale.tokens` tokens in one micro-batch."""
    length = scale.lengths[work.length]
    rows = max(1, scale.tokens // length)
    corpus = workload.made_up_rows(scale, length, "pack" if work.packed else "full")
    model = scale.models[work.model].flags(**({} if work.dropout else {DROPOUT: 0.0}))
    return [
        *(*corpus, *model, f"--batch.global_size={rows}", f"--batch.micro_size={rows}"),
        f"--masking.probability={workload.MASKED}",
        *("--optim.duration=1000000 steps", "--logging.every=1000000", "--tracking.trackers=[]"),
        *("--validation.every=null", "--checkpoint.every=null", "--export.verify=false"),
        *work.flags,
    ]


def _train(scale: Any, flags: Sequence[str], probe: Callback, precision: str = "") -> tuple[Any, list[dict[str, Any]]]:
    """Train until the probe has enough; the spec, and the lines of metrics.jsonl."""
    os.environ |= {"ACCELERATE_MIXED_PRECISION": precision or scale.precision, "HF_HUB_OFFLINE": "1"}
    if not scale.on_gpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        config = parse([*flags, f"--output_dir={folder}/run"])
        spec = resolve(config, Launch.read())
        try:
            train.run(config, [probe])
        except EnoughError:
            pass
        finally:
            _allow_waits(True)
        lines = Path(folder, "run", "metrics.jsonl").read_text("utf-8").splitlines()
    return spec, [json.loads(line) for line in lines]


def speed(scale: Any, work: Work) -> dict[str, Any]:
    """Tokens per second, eager and regional, and what a token requires."""
    return {how: _speed(scale, work, how) for how in COMPILE}


def _speed(scale: Any, work: Work, how: str) -> dict[str, Any]:
    import torch

    if scale.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    probe = Probe(scale.steps, on_gpu=scale.on_gpu)
    try:
        spec, _ = _train(scale, [*_flags(scale, work), f"--model.compile={how}"], probe)
    except Exception as error:
        if not math.isfinite(probe.seconds):
            return {"error": f"{type(error).__name__}: {error}"[-1000:]}
        probe.waits = f"{type(error).__name__}: {error}"[:1000]  # in the step without waits
        spec = resolve(parse([*_flags(scale, work), "--output_dir=none"]), Launch.read())
    length, rows = spec.corpus.rows.max_length, spec.phases[0].batch.global_size
    return {
        "tokens_per_second": rows * length / probe.seconds,
        "flops_per_token": workload.required_flops(spec.architecture, length, packed=work.packed),
        "first_step_seconds": probe.first,
        "peak_memory_bytes": probe.peak,
        "estimated_bytes": spec.memory.total,
        "waits_for_the_device": probe.waits,
    }


class Few(Callback):
    """Ends a run after some steps.

    Args:
        steps: Their number.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        if step == self._steps:
            raise EnoughError


def fit(scale: Any) -> dict[str, Any]:
    """The micro-batch that is left of one that needs more memory than there is."""
    import torch

    flags = _flags(scale, Work("bert-base", 512))
    os.environ |= {"ACCELERATE_MIXED_PRECISION": scale.precision}
    if scale.on_gpu:
        needed = resolve(parse([*flags, "--output_dir=none"]), Launch.read()).memory.total
        torch.cuda.set_per_process_memory_fraction(0.6 * needed / torch.cuda.get_device_properties(0).total_memory)
    else:
        rows = scale.tokens // scale.lengths[512]
        os.environ[FAULT] = f"memory@{rows}"  # as if this micro-batch did not fit
    spec, lines = _train(scale, flags, Few(2))
    start = next(line for line in lines if line["kind"] == "start")
    left, asked = start["micro_batch"], spec.phases[0].batch.micro_size
    return {"asked_rows": asked, "rows": left, "accumulation": start["accumulation"], "agrees": left < asked}


def overflow(scale: Any) -> dict[str, Any]:
    """The steps that are skipped in fp16 when one has non-finite gradients; bf16 on a CPU, which has no fp16."""
    os.environ[FAULT] = "nan@3"
    flags = [*_flags(scale, Work("bert-base", 128)), "--logging.every=1"]
    _, lines = _train(scale, flags, Few(8), "fp16" if scale.on_gpu else "bf16")
    train_lines = [line for line in lines if line["kind"] == "train"]
    skipped, loss = train_lines[-1]["skipped_steps"], train_lines[-1]["loss"]
    return {"skipped_steps": skipped, "last_loss": loss, "agrees": skipped >= 1 and loss is not None}


def save(scale: Any) -> dict[str, Any]:
    """How long a checkpoint holds training."""
    probe = Probe(2, on_gpu=False)
    spec, _ = _train(scale, [*_flags(scale, Work("bert-base", 128)), "--checkpoint.every=4"], probe)
    return {"hold_seconds": probe.held, "bytes": 12 * spec.shape.parameters}
