"""The runs of benchmarks/gpu.py: `train.py` as launched by accelerate, and Trainer in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import processes
import systems
import workload
from processes import ProcessError, SteppedProcess
from systems import ON_CPU, TUNED, Job, TrainerSettings

ROOT = Path(__file__).resolve().parent.parent
WARMUP = 3  # lines of a run that do not count; compilation comes before them


@dataclass(frozen=True)
class Scale:
    """The size of everything: a real measurement, or a dry run.

    Args:
        on_gpu: Whether a GPU is measured.
        models: Names of shapes.
        lengths: Tokens per row.
        vocabulary: Tokens.
        tokens: Tokens of a micro-batch, which is a whole step.
        notebook_rows: Batch of the notebook.
        lines: Lines of metrics.jsonl that count in a run.
        every: Steps between two lines.
        rounds: Rounds of a Trainer that count.
        steps: Steps of each round.
        loss_steps: Steps whose losses are compared with those of the CPU.
        source: Documents, as corpus.source.
        cache: Where prepared rows are kept.
        peak_seconds: Time to measure the GEMM peak of each precision.
        precision: bf16, or fp16 if the GPU only emulates bf16.
    """

    on_gpu: bool
    models: tuple[str, ...]
    lengths: tuple[int, ...]
    vocabulary: int
    tokens: int
    notebook_rows: int
    lines: int
    every: int
    rounds: int
    steps: int
    loss_steps: int
    source: str
    cache: str
    peak_seconds: float
    precision: str


@dataclass(frozen=True)
class Work:
    """A model and its batch.

    Args:
        scale: The size of everything.
        shape: The model.
        length: Tokens per row.
        rows: Rows per step.
        logs: Folder for the output of runs.
    """

    scale: Scale
    shape: workload.Shape
    length: int
    rows: int
    logs: Path


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of `train.py`.

    Args:
        flags: Flags of `train.py`.
        overrides: Overrides of the model's configuration.
        topology: File of configs/accelerate; by default one device without sharding.
        precision: As accelerate calls it; by default that of the scale.
        with_mask: Whether rows come with an attention mask of ones.
        documents: Whether rows hold whole documents instead of concatenated ones.
        loss_steps: If not 0, the losses of this many steps are recorded instead of the speed.
    """

    flags: Sequence[str] = ()
    overrides: Mapping[str, float] = field(default_factory=dict)
    topology: str | None = None
    precision: str | None = None
    with_mask: bool = False
    documents: bool = False
    loss_steps: int = 0


def mlm_dist(work: Work, settings: RunSettings) -> dict[str, Any]:
    """Launch `train.py`: its speed between lines of metrics.jsonl, or its losses."""
    scale = work.scale
    topology = settings.topology or ("gpu" if scale.on_gpu else "cpu")
    precision = settings.precision or scale.precision
    every = 1 if settings.loss_steps else scale.every
    steps = settings.loss_steps or every * (WARMUP + scale.lines)
    corpus_flags = _document_flags(scale, work.length) if settings.documents else _full_rows(scale, work.length)[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'configs' / 'accelerate' / topology}.yaml",
            f"--mixed_precision={precision}",
            *(() if topology in ("cpu", "gpu") else ("--num_processes=1",)),
            f"--main_process_port={common.free_port()}",
            *(str(Path(__file__).resolve()), str(steps), str(int(settings.with_mask)), f"{folder}/memory"),
            *(*corpus_flags, f"--output_dir={folder}/run"),
            *(f"--batch.global_size={work.rows}", f"--batch.micro_size={work.rows}"),
            "--model.name_or_path=bert",
            f"--model.overrides={json.dumps(work.shape.overrides | dict(settings.overrides))}",
            *(f"--logging.every={every}", "--tracking.trackers=[]", "--optim.duration=1000000 steps"),
            *("--validation.every=null", "--checkpoint.every=null", *settings.flags),
        ]
        environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RANK")}
        environment |= {"HF_HUB_OFFLINE": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if topology == "cpu" or not scale.on_gpu else {}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        (work.logs / "mlm-dist.log").write_text(ended.stdout + ended.stderr, "utf-8")
        path, memory = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "memory"
        if ended.returncode or not memory.exists():
            output = f"{ended.stdout}{ended.stderr}"
            raise ProcessError(f"{' '.join(command[3:])} ended with {ended.returncode}:\n{output}"[-2000:])
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        peak_memory = int(memory.read_text())
    lines = [line for line in lines if line["kind"] == "train"]
    if settings.loss_steps:
        return {"losses": [line["loss"] for line in lines]}
    compiled = re.findall(r"([\d.]+) s so far", ended.stdout)
    return {
        "tokens_per_second": common.spread([line["tokens_per_second"] for line in lines[WARMUP:]]),
        "settings": " ".join([precision, *settings.flags]),
        "flops_per_token": None if settings.documents else work.shape.flops_per_token(work.length),
        "rows": work.rows,
        "compile_seconds": float(compiled[-1]) if compiled else 0.0,
        "peak_memory_bytes": peak_memory,
        "last_loss": lines[-1]["loss"],
    }


def as_rank(steps: int, memory: str, flags: list[str], *, with_mask: bool) -> None:
    """Run the process of a run for a number of steps; no model is saved."""
    calls = itertools.count()

    def before_step() -> None:
        if next(calls) == steps:
            Path(memory).write_text(str(common.peak_memory()))
            sys.stdout.flush()
            os._exit(0)

    def masked(micro_batch: Any) -> Any:
        import torch

        return dataclasses.replace(micro_batch, attention_mask=torch.ones_like(micro_batch.input_ids))

    systems.train_with(before_step, flags, masked if with_mask else lambda micro_batch: micro_batch)


def trainer(work: Work, settings: TrainerSettings) -> dict[str, Any]:
    """The speed of a Trainer, per round."""
    scale = work.scale
    corpus_flags, corpus, _ = _full_rows(scale, work.length)
    job = Job(corpus_flags, corpus, work.shape, work.rows, on_gpu=scale.on_gpu)
    # Trainer would spread its batch over all GPUs.
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": first_gpu} if scale.on_gpu else ON_CPU
    log = work.logs / "trainer.log"
    with SteppedProcess(systems.trainer, job, settings, environment=environment, log=log) as system:
        first = system.run(1)
        system.run(scale.steps)
        rounds = [system.run(scale.steps) for _ in range(scale.rounds)]
    return {
        "tokens_per_second": common.spread([scale.steps * work.rows * work.length / one.seconds for one in rounds]),
        "settings": str(settings),
        "flops_per_token": work.shape.flops_per_token(work.length),
        "rows": work.rows,
        "first_step_seconds": first.seconds,
        "peak_memory_bytes": rounds[-1].peak_memory,
    }


def tuned_trainer(work: Work) -> dict[str, Any]:
    """Trainer with its fastest settings: the largest micro-batch that fits, then compiled if that helps."""
    workers = max(1, min(4, common.num_cores() - 1))
    precision = {"bf16": work.scale.precision == "bf16", "fp16": work.scale.precision == "fp16"}
    settings = dataclasses.replace(TUNED, num_workers=workers, **precision)
    tried: dict[str, Any] = {}

    def attempt(candidate: TrainerSettings) -> dict[str, Any] | None:
        try:
            result = trainer(work, candidate)
        except ProcessError as error:
            tried[str(candidate)] = str(error)[-300:]
            return None
        tried[str(candidate)] = result["tokens_per_second"].median
        return result

    best, micro_size = attempt(settings), work.rows
    while best is None and micro_size % 2 == 0:
        micro_size //= 2
        settings = dataclasses.replace(settings, micro_size=micro_size)
        best = attempt(settings)
    if best is None:
        raise ProcessError(f"no settings of Trainer worked: {tried}")
    for change in ({"compile": True}, {"micro_size": micro_size // 2 if micro_size > 1 else micro_size}):
        candidate = dataclasses.replace(settings, **change)
        result = attempt(candidate)
        if result and result["tokens_per_second"].median > best["tokens_per_second"].median:
            best, settings = result, candidate
    return best | {"tried": tried}


@functools.cache
def _full_rows(scale: Scale, length: int) -> tuple[list[str], Path, int]:
    flags, corpus, count = processes.call(workload.full_rows, scale.source, scale.vocabulary, length, scale.cache)
    if count < scale.tokens // length:
        raise ProcessError(f"--source: {count} rows of {length} tokens are less than a micro-batch of {scale.tokens}")
    return flags, corpus, count


def _document_flags(scale: Scale, length: int) -> list[str]:
    """Flags for rows of whole documents, each chunk in a row of its own."""
    return [
        "--rows.mode=chunk",
        *(f"--corpus.source={scale.source}", f"--corpus.cache_dir={scale.cache}", "--corpus.validation_fraction=0"),
        *(f"--tokenizer.train_vocab_size={scale.vocabulary}", f"--rows.max_length={length}"),
    ]


if __name__ == "__main__":
    as_rank(int(sys.argv[1]), sys.argv[3], sys.argv[4:], with_mask=sys.argv[2] == "1")
