"""All of a GPU in one run: speed and model-FLOP utilisation, each optimisation on and off, peers, sharding, agreement.

    python benchmarks/gpu.py                                   # every part: about an hour and a half on an H100
    python benchmarks/gpu.py --parts throughput,losses         # some of them
    python benchmarks/gpu.py --models bert-base --lengths 128
    python benchmarks/gpu.py --dry-run                         # every part, tiny, on the CPU: only that it works

What is done is in results/gpu.json after each case, and a case that is there is not measured again (--again does), so
that a run which was cut short goes on with the same command. Needs the checkout and its dependencies, no network.

peak        the most FLOP/s of matrix products, beside what the vendor says of the card
throughput  this project without compile, regional and whole; Trainer as the notebook has it; Trainer tuned
ablation    bf16, the head on masked positions, no attention mask: each taken away from the regional run
packed      documents in rows of their own, packed, packed where the variable-length kernel cannot be used
sharding    the same run under FSDP2 and ZeRO-1, 2 and 3, one process
losses      20 updates in fp32 without dropout, compiled and sharded in all ways, against the CPU's
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cards
import common
import contenders
import workload
from common import say
from contenders import NOTEBOOK, ON_CPU, TUNED, Task, Tuning
from contest import Contender, Failed, apart
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
AS_RANK = "--as-rank"  # this file, launched as the process of a run
PARTS = ("peak", "throughput", "ablation", "packed", "sharding", "losses")
COMPILE = ("none", "regional", "whole")
WARMUP = 3  # lines of a run that do not count, and what is compiled before them
AGREE = {"loss": 1e-3}  # nats that two devices' fp32 may differ by after 20 updates


@dataclass(frozen=True)
class Scale:
    """How large everything is: real, or a dry run.

    Args:
        on_gpu: Whether there is one to measure.
        models: Shapes by name.
        lengths: Tokens in a row.
        vocabulary: Tokens.
        tokens: In a micro-batch, which is a whole update.
        notebook_rows: The notebook's batch.
        lines: Of metrics.jsonl that count in a run.
        every: Updates between two lines.
        rounds: Of a Trainer that count.
        updates: In each.
        loss_updates: Compared with the CPU's.
        source: Documents, as corpus.source.
        cache: Where prepared rows are kept.
        peak_seconds: How long each precision's GEMM peak is sought.
        precision: bf16, or fp16 where that is only emulated.
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
    updates: int
    loss_updates: int
    source: str
    cache: str
    peak_seconds: float
    precision: str


@dataclass(frozen=True)
class Case:
    """One thing to measure: its part, its name in the results, and how."""

    part: str
    name: str
    measure: Callable[[], dict[str, Any]]


def main() -> None:
    """Measure what is not yet in the results."""
    arguments = _arguments()
    scale = _scale(arguments)
    device = apart(cards.device_here) if scale.on_gpu else {"name": "none: a dry run on the CPU", "peak_flops": None}
    if scale.on_gpu and not device["has_bf16"]:
        scale = dataclasses.replace(scale, precision="fp16")
    say(f"{device['name']}, {scale.precision}")
    parts = _found(arguments.output, device["name"])
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        for case in _cases(scale, logs, device["peak_flops"]):
            there = parts.setdefault(case.part, {}).get(case.name)
            if case.part not in arguments.parts or (there and "error" not in there and not arguments.again):
                continue
            began = time.perf_counter()
            try:
                found = case.measure()
            except Failed as error:  # out of memory, say; the others go on
                found = {"error": str(error)[-2000:]}
            parts[case.part][case.name] = found
            _judge(parts, device)
            common.write(arguments.output, device=device, scale=dataclasses.asdict(scale), parts=parts)
            took = time.perf_counter() - began
            say(f"{case.part}: {case.name}: {'failed' if 'error' in found else 'done'} in {took:.0f} s")
    _show(parts)
    if any("error" in found for part in arguments.parts for found in parts[part].values()):
        raise SystemExit(f"some cases failed; {arguments.output} says why, and the same command tries them again")


def _cases(scale: Scale, logs: Path, peak: float | None) -> Iterator[Case]:
    yield Case("peak", "gemm", lambda: apart(cards.measured_peak, scale.peak_seconds, scale.precision, scale.on_gpu))
    for model, length in itertools.product(scale.models, scale.lengths):
        shape, where = workload.shape(model, scale.vocabulary), f"{model}, {length} tokens"
        rows = scale.tokens // length
        ours = functools.partial(_ours, scale, shape, length, rows, logs)
        for how in COMPILE:
            name = f"{where}, mlm-dist, compile {how}"
            yield Case("throughput", name, functools.partial(ours, [f"--model.compile={how}"]))
        tuned = functools.partial(_tuned, scale, shape, length, rows, logs)
        yield Case("throughput", f"{where}, Trainer tuned", tuned)
        notebook = functools.partial(_trainer, scale, shape, length, scale.notebook_rows, NOTEBOOK, logs)
        yield Case("throughput", f"{where}, Trainer as the notebook has it", notebook)

        regional = ["--model.compile=regional"]
        without: dict[str, Callable[[], dict[str, Any]]] = {
            "nothing": functools.partial(ours, regional),
            "the masked head": functools.partial(ours, [*regional, "--model.masked_head=false"]),
            "16 bit": functools.partial(ours, regional, precision="no"),
            "the missing mask": functools.partial(ours, regional, with_mask=True),
        }
        for name, measure in without.items():
            yield Case("ablation", f"{where}, without {name}", measure)

        quiet = {"attention_probs_dropout_prob": 0.0}  # the variable-length kernel has none
        documents = functools.partial(ours, documents=True)
        yield Case("packed", f"{where}, one document a row", functools.partial(documents, regional, quiet))
        packed = [*regional, "--rows.mode=pack"]
        yield Case("packed", f"{where}, packed", functools.partial(documents, packed, quiet))
        yield Case("packed", f"{where}, packed, with a mask", functools.partial(documents, packed))

        for topology in ("gpu", "fsdp2", "zero1", "zero2", "zero3") if scale.on_gpu else ("cpu", "zero2"):
            yield Case("sharding", f"{where}, {topology}", functools.partial(ours, [], topology=topology))
    yield from _loss_cases(scale, logs)


def _loss_cases(scale: Scale, logs: Path) -> Iterator[Case]:
    """20 updates of a small model in fp32 without dropout, which a GPU would draw in another way."""
    shape = workload.shape("2x128" if scale.on_gpu else "1x32", scale.vocabulary)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    run = functools.partial(
        _ours, scale, shape, scale.lengths[0], 16, logs, overrides=quiet, precision="no", losses=scale.loss_updates
    )
    yield Case("losses", "cpu", functools.partial(run, [], topology="cpu"))
    for how in COMPILE:
        one = functools.partial(run, [f"--model.compile={how}"])
        yield Case("losses", f"one device, compile {how}", one)
    pack = functools.partial(run, documents=True)
    for topology in ("cpu", "gpu") if scale.on_gpu else ("cpu",):
        yield Case("losses", f"{topology}, packed", functools.partial(pack, ["--rows.mode=pack"], topology=topology))
    for topology in ("fsdp2", "zero1", "zero2", "zero3") if scale.on_gpu else ("zero1",):
        yield Case("losses", topology, functools.partial(run, [], topology=topology))


def _ours(
    scale: Scale,
    shape: workload.Shape,
    length: int,
    rows: int,
    logs: Path,
    keys: list[str],
    overrides: dict[str, float] | None = None,
    *,
    topology: str | None = None,
    precision: str | None = None,
    with_mask: bool = False,
    documents: bool = False,
    losses: int = 0,
) -> dict[str, Any]:
    """A run of `train.py`, really launched: its speed between lines of metrics.jsonl, or its losses."""
    topology = topology or ("gpu" if scale.on_gpu else "cpu")
    flags = _documents(scale, length) if documents else _full_rows(scale, length)[0]
    every = 1 if losses else scale.every
    steps = losses or every * (WARMUP + scale.lines)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'configs' / 'accelerate' / topology}.yaml",
            f"--mixed_precision={precision or scale.precision}",
            *(() if topology in ("cpu", "gpu") else ("--num_processes=1",)),
            f"--main_process_port={common.free_port()}",
            *(str(Path(__file__).resolve()), AS_RANK, str(steps), str(int(with_mask)), f"{folder}/memory", *flags),
            *(f"--output_dir={folder}/run", f"--batch.global_size={rows}", f"--batch.micro_size={rows}"),
            "--model.name_or_path=bert",
            f"--model.overrides={json.dumps(shape.overrides | (overrides or {}))}",
            *(f"--logging.every={every}", "--tracking.trackers=[]", "--optim.duration=1000000 steps"),
            *("--validation.every=null", "--checkpoint.every=null", *keys),
        ]
        environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RANK")}
        on_cpu = topology == "cpu" or not scale.on_gpu
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
        ended = subprocess.run(
            command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
        )
        (logs / "mlm-dist.log").write_text(ended.stdout + ended.stderr, "utf-8")
        path, memory = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "memory"
        if ended.returncode or not memory.exists():
            raise Failed(
                f"{' '.join(command[3:])} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"[-2000:]
            )
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        peak_memory = int(memory.read_text())
    lines = [line for line in lines if line["kind"] == "train"]
    if losses:
        return {"losses": [line["loss"] for line in lines]}
    compiled = re.findall(r"([\d.]+) s so far", ended.stdout)
    rates = [line["tokens_per_second"] for line in lines[WARMUP:]]
    return {
        "tokens_per_second": common.spread(rates),
        "settings": " ".join([precision or scale.precision, *keys]),
        "flops_per_token": None if documents else shape.flops_per_token(length),
        "rows": rows,
        "compile_seconds": float(compiled[-1]) if compiled else 0.0,
        "peak_memory_bytes": peak_memory,
        "last_loss": lines[-1]["loss"],
    }


def as_rank(steps: int, with_mask: bool, memory: str, flags: list[str]) -> None:
    """Be the process of a run; so many updates, and no model is saved at the end."""
    calls = itertools.count()

    def boundary() -> None:
        if next(calls) == steps:
            Path(memory).write_text(str(common.peak_memory()))
            os._exit(0)

    def masked(micro: Any) -> Any:
        import torch

        return dataclasses.replace(micro, attention_mask=torch.ones_like(micro.input_ids))

    contenders.train_with(boundary, flags, masked if with_mask else lambda micro: micro)


def _trainer(scale: Scale, shape: workload.Shape, length: int, rows: int, tuning: Tuning, logs: Path) -> dict[str, Any]:
    """A Trainer in a process of its own: its speed, turn by turn."""
    flags, corpus, _ = _full_rows(scale, length)
    task = Task(flags, corpus, shape, rows, on_gpu=scale.on_gpu)
    # Trainer would spread its batch over all GPUs it sees.
    one = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": one} if scale.on_gpu else ON_CPU
    with Contender(contenders.trainer, task, tuning, environment=environment, log=logs / "trainer.log") as contender:
        first = contender.run(1)
        contender.run(scale.updates)
        laps = [contender.run(scale.updates) for _ in range(scale.rounds)]
    return {
        "tokens_per_second": common.spread([scale.updates * rows * length / lap.seconds for lap in laps]),
        "settings": str(tuning),
        "flops_per_token": shape.flops_per_token(length),
        "rows": rows,
        "first_update_seconds": first.seconds,
        "peak_memory_bytes": laps[-1].peak_memory,
    }


def _tuned(scale: Scale, shape: workload.Shape, length: int, rows: int, logs: Path) -> dict[str, Any]:
    """Trainer with what makes it fastest: the largest micro-batch that fits, then compiled if that helps."""
    workers = max(1, min(4, common.num_cores() - 1))
    precise = {"bf16": scale.precision == "bf16", "fp16": scale.precision == "fp16"}
    tuning = dataclasses.replace(TUNED, num_workers=workers, **precise)
    tried: dict[str, Any] = {}

    def attempt(candidate: Tuning) -> dict[str, Any] | None:
        try:
            found = _trainer(scale, shape, length, rows, candidate, logs)
        except Failed as error:
            tried[str(candidate)] = str(error)[-300:]
            return None
        tried[str(candidate)] = found["tokens_per_second"].median
        return found

    best, micro = attempt(tuning), rows
    while best is None and micro % 2 == 0:
        micro //= 2
        tuning = dataclasses.replace(tuning, micro_size=micro)
        best = attempt(tuning)
    if best is None:
        raise Failed(f"no setting of Trainer worked: {tried}")
    for change in ({"compile": True}, {"micro_size": micro // 2 if micro > 1 else micro}):
        candidate = dataclasses.replace(tuning, **change)
        found = attempt(candidate)
        if found and found["tokens_per_second"].median > best["tokens_per_second"].median:
            best, tuning = found, candidate
    return best | {"tried": tried}


@functools.cache
def _full_rows(scale: Scale, length: int) -> tuple[list[str], Path, int]:
    found: tuple[list[str], Path, int] = apart(_rows, scale, length)
    return found


def _rows(scale: Scale, length: int) -> tuple[list[str], Path, int]:
    flags, corpus, there = workload.full_rows(scale.source, scale.vocabulary, length, scale.cache)
    if there < scale.tokens // length:
        raise ValueError(f"--source: {there} rows of {length} tokens are less than a micro-batch of {scale.tokens}")
    return flags, corpus, there


def _documents(scale: Scale, length: int) -> list[str]:
    """Flags for rows of whole documents, each window in a row of its own."""
    return [
        "--rows.mode=chunk",
        *(f"--corpus.source={scale.source}", f"--corpus.cache_dir={scale.cache}", "--corpus.validation_fraction=0"),
        *(f"--tokenizer.train_vocab_size={scale.vocabulary}", f"--rows.max_length={length}"),
    ]


def _judge(parts: dict[str, Any], device: dict[str, Any]) -> None:
    """Add to what was measured: utilisation, ratios to the peers, and whether losses agree."""
    measured = parts.get("peak", {}).get("gemm", {})
    peak = device["peak_flops"] or max((rate for rate in measured.values() if isinstance(rate, float)), default=None)
    for part in ("throughput", "ablation", "packed", "sharding"):
        for found in parts.get(part, {}).values():
            if peak and found.get("flops_per_token"):
                found["model_flop_utilisation"] = _median(found) * found["flops_per_token"] / peak
    for name, found in parts.get("throughput", {}).items():
        where, _, who = name.partition(", mlm-dist")
        if who and "error" not in found:
            peers = {peer: one for peer, one in parts["throughput"].items() if peer.startswith(f"{where}, Trainer")}
            found["times_faster_than"] = {
                peer.removeprefix(f"{where}, "): _median(found) / _median(one)
                for peer, one in peers.items()
                if "error" not in one
            }
    losses = parts.get("losses", {})
    for name, found in losses.items():
        reference = losses.get("cpu, packed" if name.endswith("packed") else "cpu", {}).get("losses")
        if reference and "losses" in found:
            pairs = zip(found["losses"], reference, strict=True)
            found["largest_difference_to_cpu"] = max(abs(one - other) for one, other in pairs)
            found["agrees"] = found["largest_difference_to_cpu"] <= AGREE["loss"]


def _median(found: dict[str, Any]) -> float:
    speed = found["tokens_per_second"]
    return float(speed["median"] if isinstance(speed, dict) else speed.median)


def _show(parts: dict[str, Any]) -> None:
    for part, cases in parts.items():
        table = Table(part, "tokens/s", "utilisation", "times faster", "peak memory", "compiled in", "loss agrees")
        for name, found in cases.items():
            if part == "peak":
                table.add_row(name, *(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in found.items()))
                continue
            share, faster = found.get("model_flop_utilisation"), found.get("times_faster_than", {})
            table.add_row(
                name if "error" not in found else f"{name}: failed",
                f"{_median(found):,.0f}" if "tokens_per_second" in found else "",
                f"{share:.1%}" if share else "",
                ", ".join(f"{ratio:.2f} {peer}" for peer, ratio in faster.items()),
                f"{found['peak_memory_bytes'] / 2**30:.1f} GiB" if "peak_memory_bytes" in found else "",
                f"{found['compile_seconds']:.0f} s" if found.get("compile_seconds") else "",
                f"{found['agrees']} ({found['largest_difference_to_cpu']:.1e})" if "agrees" in found else "",
            )
        if cases:
            say(table)


def _found(path: Path, device: str) -> dict[str, Any]:
    """What an earlier run on this device measured."""
    there = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return dict(there["parts"]) if there.get("device", {}).get("name") == device else {}


def _scale(arguments: argparse.Namespace) -> Scale:
    real = Scale(
        on_gpu=True,
        models=("bert-base",),
        lengths=(128, 512),
        vocabulary=workload.VOCABULARY,
        tokens=65_536,
        notebook_rows=16,
        lines=8,
        every=5,
        rounds=5,
        updates=10,
        loss_updates=20,
        source=arguments.source,
        cache=arguments.cache,
        peak_seconds=4.0,
        precision="bf16",
    )
    tiny = dataclasses.replace(
        real,
        on_gpu=False,
        models=("1x32",),
        lengths=(64,),
        vocabulary=1000,
        tokens=256,
        notebook_rows=2,
        lines=1,
        every=1,
        rounds=1,
        updates=1,
        loss_updates=3,
        peak_seconds=0.05,
    )
    scale = tiny if arguments.dry_run else real
    chosen = {"models": arguments.models, "lengths": arguments.lengths, "tokens": arguments.tokens}
    return dataclasses.replace(scale, **{name: value for name, value in chosen.items() if value})


def _arguments() -> argparse.Namespace:
    def words(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", type=words, default=PARTS, help=f"some of {', '.join(PARTS)}; commas between")
    add("--models", type=words, help="bert-base, or LAYERSxHIDDEN; commas between")
    add("--lengths", type=lambda text: tuple(map(int, words(text))), help="tokens in a row; by default 128,512")
    add("--tokens", type=int, help="in a micro-batch; by default 65536")
    add("--again", action="store_true", help="measure what is in the results already")
    add("--dry-run", action="store_true", help="every part, tiny, on the CPU")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for what the contenders print; by default it is not kept")
    add("--output", type=Path, help="by default results/gpu.json; of a dry run gpu_dry_run.json in the current folder")
    arguments = parser.parse_args()
    for name in set(arguments.parts) - set(PARTS):
        parser.error(f"--parts: {name} is none of {', '.join(PARTS)}")
    arguments.output = arguments.output or (
        Path("gpu_dry_run.json") if arguments.dry_run else common.RESULTS / "gpu.json"
    )
    return arguments


if __name__ == "__main__":
    if sys.argv[1:2] == [AS_RANK]:
        as_rank(int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4], sys.argv[5:])
    else:
        main()
