"""The cases of benchmarks/gpu.py, ordered by value: what is measured, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_device
import gpu_kernels
import gpu_runs
import gpu_steps
import processes
from workload import Model

PARTS = ("facts", "kernel", "run", "stop", "speed", "fit", "fp16", "save", "trainer")


@dataclass(frozen=True)
class Scale:
    """The size of everything: a real measurement, or a dry run.

    Args:
        on_gpu: Whether a GPU is measured.
        precision: bf16, or fp16 if the GPU only emulates bf16.
        small: Name of the model of launched runs.
        models: {name: model} of the models whose speed is measured.
        lengths: {tokens per row: what a dry run takes instead}.
        documents: Made-up documents.
        tokens: Tokens of a micro-batch, which is a whole step.
        steps: Steps that count in a measurement of speed.
        seconds: Time to measure the peak of matrix products in each precision.
        cache: Where prepared rows are kept.
    """

    on_gpu: bool
    precision: str
    small: str
    models: Mapping[str, Model]
    lengths: Mapping[int, int]
    documents: int
    tokens: int
    steps: int
    seconds: float
    cache: str = "~/.cache/mlm_dist"


@dataclass(frozen=True)
class Case:
    """A case.

    Args:
        name: Its part, and what is special about it.
        measure: Measures it, given a scale, a folder for the output of processes, and the seconds that are left.
        is_quick: Whether it belongs to --quick.
        least_seconds: It is not begun with less time than this.
    """

    name: str
    measure: Callable[[Scale, Path, float | None], dict[str, Any]]
    is_quick: bool = True
    least_seconds: float = 25.0

    @property
    def part(self) -> str:
        """One of PARTS."""
        return self.name.split(",")[0]


def cases() -> tuple[Case, ...]:
    """All cases, the most valuable ones first."""
    speed = functools.partial(Case, least_seconds=45.0)
    later = functools.partial(Case, is_quick=False)
    return (
        Case("facts", _in_process(gpu_device.facts), least_seconds=0),
        Case("kernel", _in_process(gpu_kernels.compare)),
        Case("run, one device", _run("gpu")),
        speed("speed, bert-base, 128 tokens", _speed("bert-base", 128)),
        speed("speed, bert-base, 512 tokens", _speed("bert-base", 512)),
        Case("run, one device, packed", _run("gpu", packed=True)),
        Case("run, fsdp2", _run("fsdp2")),
        speed("speed, bert-base, 512 tokens, packed", _speed("bert-base", 512, packed=True)),
        speed("speed, bert-base, 512 tokens, packed, no dropout", _speed("bert-base", 512, packed=True, dropout=False)),
        speed("speed, modernbert-base, 1024 tokens", _speed("modernbert-base", 1024)),
        Case("run, zero2", _run("zero2")),
        Case("run, zero3", _run("zero3")),
        Case("fp16", _in_process(gpu_steps.overflow)),
        Case("fit", _in_process(gpu_steps.fit)),
        Case("stop", gpu_runs.stop),
        Case("save", _in_process(gpu_steps.save)),
        speed("speed, modernbert-base, 8192 tokens", _speed("modernbert-base", 8192)),
        speed("speed, modernbert-large, 1024 tokens", _speed("modernbert-large", 1024)),
        speed("trainer, bert-base, 128 tokens", _trainer("bert-base", 128)),
        later("run, zero1", _run("zero1")),
        later("speed, modernbert-base, 1024 tokens, packed", _speed("modernbert-base", 1024, packed=True)),
        later("speed, bert-base, 128 tokens, dense head", _speed("bert-base", 128, "--model.masked_head=false")),
        later("speed, bert-base, 512 tokens, checkpointing", _speed("bert-base", 512, "--model.checkpointing=layers")),
        later("trainer, bert-base, 512 tokens", _trainer("bert-base", 512)),
    )


def _in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> Callable[..., dict[str, Any]]:
    """The work in a process of its own, killed when the time is over."""

    def measure(scale: Scale, logs: Path, left: float | None) -> dict[str, Any]:
        log = logs / f"{work.__name__}.log"
        result: dict[str, Any] = processes.call(work, scale, *arguments, log=log, timeout=left)
        return result

    return measure


def _speed(
    model: str, length: int, *flags: str, packed: bool = False, dropout: bool = True
) -> Callable[..., dict[str, Any]]:
    return _in_process(gpu_steps.speed, gpu_steps.Work(model, length, packed=packed, dropout=dropout, flags=flags))


def _run(topology: str, *, packed: bool = False) -> Callable[..., dict[str, Any]]:
    return functools.partial(gpu_runs.resumed, topology, packed)


def _trainer(model: str, length: int) -> Callable[..., dict[str, Any]]:
    return functools.partial(gpu_runs.tuned_trainer, model, length)
