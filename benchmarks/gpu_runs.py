"""Launched runs of benchmarks/gpu.py: `train.py` with checkpoints, a resume and a stop; and Trainer."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import gpu_results
import processes
import systems
import workload
from common import console
from processes import ProcessError, SteppedProcess
from systems import ON_CPU, TUNED, Job, TrainerSettings

ROOT = Path(__file__).resolve().parent.parent
STEPS, STOPPED_AT, SAVED_AT = 20, 12, 10
ROUNDS = 3  # of a Trainer
# What a dry run launches instead of the topologies for a GPU.
ON_CPUS = {"gpu": "cpu", "fsdp2": "fsdp2_cpu"}


def _command(scale: Any, topology: str, folder: Path, flags: Sequence[str]) -> list[str]:
    """A run of the small model in fp32, without dropout because a GPU draws other random numbers for it."""
    name = topology if scale.on_gpu else ON_CPUS.get(topology, topology)
    several = () if topology == "gpu" else ("--num_processes=1",)
    hidden = () if scale.on_gpu or name in ON_CPUS.values() else ("--gpu_ids=-1,-1",)
    shape = workload.shape(scale.small, 1000)
    overrides = shape.overrides | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return [
        *(sys.executable, "-m", "mlm_dist.program", "train", f"--topology={name}", "--mixed_precision=no"),
        *(*several, *hidden, f"--main_process_port={common.free_port()}", f"--output_dir={folder}"),
        *("--model.name_or_path=bert", f"--model.overrides={json.dumps(overrides)}", "--batch.global_size=16"),
        *("--optim.lr=1e-3", "--optim.schedule=constant", "--optim.warmup=0", "--logging.every=1"),
        *("--tracking.trackers=[]", "--export.verify=false", *flags),
    ]


def _environment() -> dict[str, str]:
    removed = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _launch(command: list[str], log: Path, seconds: float | None) -> None:
    try:
        ended = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False, timeout=seconds, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{' '.join(command[3:6])} took longer than {seconds:.0f} s") from None
    log.write_text(ended.stdout + ended.stderr, "utf-8")
    if ended.returncode:
        output = ended.stdout + ended.stderr
        raise ProcessError(f"{' '.join(command[3:6])} ended with {ended.returncode}:\n{output}"[-2000:])


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    written = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []  # a line may still be incomplete
    return [line for line in map(json.loads, written) if line["kind"] == kind]


def resumed(topology: str, packed: bool, scale: Any, logs: Path, left: float | None) -> dict[str, Any]:
    """20 losses of a run that ends after 12 steps and is resumed, and what its checkpoint of step 10 holds."""
    stored = json.loads(gpu_results.STORED.read_text("utf-8"))
    until = None if left is None else time.perf_counter() + left
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        rows = workload.made_up_rows(scale, scale.lengths[128], _mode(packed))
        every = (f"--validation.every={SAVED_AT}", f"--checkpoint.every={SAVED_AT}")
        for steps in (STOPPED_AT, STEPS):
            flags = [*rows, *every, f"--optim.duration={steps} steps"]
            left = None if until is None else max(1.0, until - time.perf_counter())
            _launch(_command(scale, topology, folder, flags), logs / f"run_{topology}.log", left)
            if steps == STOPPED_AT:
                counts = _contents(folder / "checkpoints" / f"step-{SAVED_AT:08d}")
        lines = _lines(folder, "train")
        starts = [line["resumed_from"] for line in _lines(folder, "start")]
        validated = [line["step"] for line in _lines(folder, "validation")]
        has_model = (folder / "model" / "model.safetensors").exists()
    result = gpu_results.compared([line["loss"] for line in lines], stored[scale.small][_mode(packed)])
    complete = {
        "moments": counts["moments"] == 2 * counts["parameters"] > 0 and counts["types"] == ["F32"],
        "resumed": starts[-1] == STOPPED_AT,
        "validated": {SAVED_AT, STEPS} <= set(validated),
        "exported": has_model,
    }
    result["agrees"] = result["agrees"] and all(complete.values())
    return {**result, **counts, "checks": complete}


def _mode(packed: bool) -> str:
    return "pack" if packed else "chunk"


def _contents(checkpoint: Path) -> dict[str, Any]:
    """How many parameters and moments a checkpoint holds, and in which types."""
    from safetensors import safe_open

    found, types = {}, set()
    for name, file in (("parameters", "model"), ("moments", "optimizer")):
        with safe_open(checkpoint / f"{file}.safetensors", "pt") as tensors:
            names = list(tensors.keys())
            found[name] = len(names)
            types |= {tensors.get_slice(key).get_dtype() for key in names}
    return {**found, "types": sorted(types)}


def store_losses(scales: Sequence[Any]) -> None:
    """Write the losses of a CPU to results/gpu_losses.json."""
    losses: dict[str, dict[str, list[float]]] = {}
    for scale in scales:
        for packed in (False, True):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary, "run")
                rows = workload.made_up_rows(scale, scale.lengths[128], _mode(packed))
                flags = [*rows, f"--optim.duration={STEPS} steps"]
                on_cpu = dataclasses.replace(scale, on_gpu=False)
                _launch(_command(on_cpu, "gpu", folder, flags), Path(temporary, "log"), None)
                found = [line["loss"] for line in _lines(folder, "train")]
            losses.setdefault(scale.small, {})[_mode(packed)] = found
            console.print(f"{scale.small}, {_mode(packed)}: {found[0]:.4f} to {found[-1]:.4f}")
    common.write(gpu_results.STORED, **losses)


def stop(scale: Any, logs: Path, left: float | None) -> dict[str, Any]:
    """The exit code of a run that receives SIGTERM, and whether it saved a checkpoint."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, log = Path(temporary, "run"), logs / "stop.log"
        flags = [*workload.made_up_rows(scale, scale.lengths[128], "full"), "--optim.duration=1000000 steps"]
        with open(log, "w", encoding="utf-8") as output:
            command = _command(scale, "gpu", folder, flags)
            process = subprocess.Popen(command, env=_environment(), stdout=output, stderr=output, cwd=ROOT)
            until = time.perf_counter() + (300.0 if left is None else left)
            try:
                while not _lines(folder, "train"):
                    if time.perf_counter() > until or process.poll() is not None:
                        raise ProcessError(f"no step was taken: {log.read_text('utf-8')[-1000:]}")
                    time.sleep(0.1)
                began = time.perf_counter()
                process.send_signal(signal.SIGTERM)
                code = process.wait(max(1.0, until - time.perf_counter()))
            except subprocess.TimeoutExpired:
                raise ProcessError("the run did not stop at SIGTERM") from None
            finally:
                if process.poll() is None:
                    process.kill()
        saved = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
        took = time.perf_counter() - began
    return {"exit_code": code, "checkpoints": saved, "stop_seconds": took, "agrees": code == 75 and bool(saved)}


def trainer(job: Job, settings: TrainerSettings, length: int, steps: int, log: Path) -> dict[str, Any]:
    """The speed of a Trainer, per round."""
    # Trainer would spread its batch over all GPUs.
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": first_gpu} if job.on_gpu else ON_CPU
    with SteppedProcess(systems.trainer, job, settings, environment=environment, log=log) as system:
        first = system.run(1)
        system.run(steps)
        rounds = [system.run(steps) for _ in range(ROUNDS)]
    return {
        "tokens_per_second": common.spread([steps * job.batch * length / one.seconds for one in rounds]),
        "settings": str(settings),
        "first_step_seconds": first.seconds,
        "peak_memory_bytes": rounds[-1].peak_memory,
    }


def tuned_trainer(model: str, length: int, scale: Any, logs: Path, left: float | None) -> dict[str, Any]:
    """Trainer with its fastest settings: the largest micro-batch that fits, then compiled if that helps."""
    until = None if left is None else time.perf_counter() + left
    length = scale.lengths[length]
    rows = max(1, scale.tokens // length)
    flags = workload.made_up_rows(scale, length, "full")
    corpus = processes.call(workload.prepared_folder, flags)
    shape = workload.shape(model) if scale.on_gpu else workload.shape(scale.small, 1000)
    job = Job(flags, corpus, shape, rows, on_gpu=scale.on_gpu)
    workers = max(1, min(4, common.num_cores() - 1))
    precision = {"bf16": scale.precision == "bf16", "fp16": scale.precision == "fp16"}
    settings = dataclasses.replace(TUNED, num_workers=workers, **precision)
    tried: dict[str, Any] = {}

    def attempt(candidate: TrainerSettings) -> dict[str, Any] | None:
        if tried and until is not None and time.perf_counter() > until - 20:
            return None
        try:
            result = trainer(job, candidate, length, scale.steps, logs / "trainer.log")
        except ProcessError as error:
            tried[str(candidate)] = str(error)[-300:]
            return None
        tried[str(candidate)] = result["tokens_per_second"].median
        return result

    best, micro_size = attempt(settings), rows
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
    return {"trainer": best | {"flops_per_token": job.shape.flops_per_token(length)}, "tried": tried}
