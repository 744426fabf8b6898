"""The cases of benchmarks/gpu.py: what is measured in each part, and how."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_device
import gpu_runs
import processes
import workload
from gpu_runs import RunSettings, Scale, Work
from systems import NOTEBOOK

PARTS = ("peak", "throughput", "ablation", "packed", "sharding", "losses")
COMPILE = ("none", "regional", "whole")
REGIONAL = ("--model.compile=regional",)
PACK = "--rows.mode=pack"


@dataclass(frozen=True)
class Case:
    """A measurement.

    Args:
        part: One of PARTS.
        name: Its name in the results.
        measure: Measures it.
    """

    part: str
    name: str
    measure: Callable[[], dict[str, Any]]


def cases(scale: Scale, logs: Path) -> Iterator[Case]:
    """All cases."""
    peak = functools.partial(
        processes.call, gpu_device.measured_peak, scale.peak_seconds, scale.precision, scale.on_gpu
    )
    yield Case("peak", "gemm", peak)
    for model, length in itertools.product(scale.models, scale.lengths):
        name = f"{model}, {length} tokens"
        work = Work(scale, workload.shape(model, scale.vocabulary), length, scale.tokens // length, logs)
        yield from _throughput(work, name)
        yield from _ablation(work, name)
        yield from _packed(work, name)
        for topology in ("gpu", "fsdp2", "zero1", "zero2", "zero3") if scale.on_gpu else ("cpu", "zero2"):
            yield _run("sharding", f"{name}, {topology}", work, RunSettings(topology=topology))
    yield from _losses(scale, logs)


def _run(part: str, name: str, work: Work, settings: RunSettings) -> Case:
    return Case(part, name, functools.partial(gpu_runs.mlm_dist, work, settings))


def _throughput(work: Work, name: str) -> Iterator[Case]:
    for how in COMPILE:
        yield _run("throughput", f"{name}, mlm-dist, compile {how}", work, RunSettings([f"--model.compile={how}"]))
    yield Case("throughput", f"{name}, Trainer tuned", functools.partial(gpu_runs.tuned_trainer, work))
    notebook = dataclasses.replace(work, rows=work.scale.notebook_rows)
    measure = functools.partial(gpu_runs.trainer, notebook, NOTEBOOK)
    yield Case("throughput", f"{name}, Trainer as in the notebook", measure)


def _ablation(work: Work, name: str) -> Iterator[Case]:
    for removed, settings in {
        "nothing": RunSettings(REGIONAL),
        "the masked head": RunSettings([*REGIONAL, "--model.masked_head=false"]),
        "16-bit precision": RunSettings(REGIONAL, precision="no"),
        "the missing mask": RunSettings(REGIONAL, with_mask=True),
    }.items():
        yield _run("ablation", f"{name}, without {removed}", work, settings)


def _packed(work: Work, name: str) -> Iterator[Case]:
    no_dropout = {"attention_probs_dropout_prob": 0.0}  # which the variable-length kernel lacks
    one_each = RunSettings(REGIONAL, no_dropout, documents=True)
    packed = dataclasses.replace(one_each, flags=[*REGIONAL, PACK])
    yield _run("packed", f"{name}, one document per row", work, one_each)
    yield _run("packed", f"{name}, packed", work, packed)
    yield _run("packed", f"{name}, packed, with a mask", work, dataclasses.replace(packed, overrides={}))


def _losses(scale: Scale, logs: Path) -> Iterator[Case]:
    """The first losses of a small model in fp32, without dropout because a GPU draws other random numbers for it."""
    shape = workload.shape("2x128" if scale.on_gpu else "1x32", scale.vocabulary)
    work = Work(scale, shape, scale.lengths[0], 16, logs)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain = RunSettings(overrides=no_dropout, precision="no", loss_steps=scale.loss_steps)
    yield _run("losses", "cpu", work, dataclasses.replace(plain, topology="cpu"))
    for how in COMPILE:
        settings = dataclasses.replace(plain, flags=[f"--model.compile={how}"])
        yield _run("losses", f"one device, compile {how}", work, settings)
    for topology in ("cpu", "gpu") if scale.on_gpu else ("cpu",):
        settings = dataclasses.replace(plain, flags=[PACK], documents=True, topology=topology)
        yield _run("losses", f"{topology}, packed", work, settings)
    for topology in ("fsdp2", "zero1", "zero2", "zero3") if scale.on_gpu else ("zero1",):
        yield _run("losses", topology, work, dataclasses.replace(plain, topology=topology))
