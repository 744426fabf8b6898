"""Tokens per second of a training step, compared with Trainer and a plain Accelerate loop in alternating rounds.

    python benchmarks/throughput.py                                 # three models, 128 and 512 tokens: ~45 minutes
    python benchmarks/throughput.py --models 6x384 --lengths 128    # one case: ~10 minutes
    python benchmarks/throughput.py --systems mlm-dist -- --model.masked_head=false    # this project alone

Systems: mlm-dist is an unchanged `train.py` in bf16; trainer is `transformers.Trainer` as in the notebook, in fp32 with
its defaults; tuned is Trainer in bf16 with the fastest settings found in the same run; plain is a minimal Accelerate
loop in bf16. Each runs in its own process and waits while the others run. All have the same rows, model, dropout,
masking rate and batch. Prints a table per case and writes results/throughput.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
import processes
import systems
import workload
from common import console
from processes import Measurement, ProcessError, SteppedProcess
from rich.table import Table
from systems import BF16, NOTEBOOK, ON_CPU, TUNED, Job, TrainerSettings

NAMES = ("mlm-dist", "trainer", "tuned", "plain")
STEPS = {"bert-base": 1, "6x384": 4, "2x128": 16}  # steps per round: seconds, not minutes
WARMUP = 2  # rounds that do not count


def main() -> None:
    """Measure all cases."""
    arguments = _arguments()
    peak: dict[str, float] = {}
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        for model in arguments.models:
            shape = workload.shape(model, arguments.vocabulary)
            settings = TUNED
            tried: dict[str, float | str] = {}
            steps = arguments.steps or STEPS.get(model, 4)
            for length in arguments.lengths:
                flags, corpus, rows = processes.call(
                    workload.full_rows, arguments.source, arguments.vocabulary, length, arguments.cache
                )
                batch = arguments.batch // length
                if not 1 <= batch <= rows:
                    raise SystemExit(f"--batch: {arguments.batch} tokens are {batch} rows; the corpus has {rows}")
                job = Job(flags, corpus, shape, batch, arguments.flags)
                for precision, rate in processes.call(common.gemm_peak, arguments.peak_seconds).items():
                    peak[precision] = max(rate, peak.get(precision, 0.0))
                if "tuned" in arguments.systems and arguments.search and not tried:
                    settings, tried = search(job, steps, logs)
                console.print(f"{model}, {length} tokens: {arguments.rounds} rounds of {steps} steps of {batch} rows")
                rounds = measure(job, arguments.systems, settings, steps, arguments.rounds, logs)
                cases.append({"model": model, "length": length, "batch": batch, "steps": steps, "tried": tried})
                cases[-1] |= {"systems": evaluate(rounds, job, length, steps, peak, settings)}
                show(cases[-1])
                # After each case, so that an interrupted benchmark keeps its results.
                common.write(arguments.output, source=Path(arguments.source).name, gemm_peak_flops=peak, cases=cases)


def start(name: str, job: Job, settings: TrainerSettings, logs: Path) -> SteppedProcess:
    """Start a system in a process of its own."""
    work: dict[str, tuple[Any, ...]] = {
        "mlm-dist": (systems.mlm_dist, job),
        "trainer": (systems.trainer, job, NOTEBOOK),
        "tuned": (systems.trainer, job, settings),
        "plain": (systems.plain, job),
    }
    environment = ON_CPU | (BF16 if name == "mlm-dist" else {})
    return SteppedProcess(*work[name], environment=environment, log=logs / f"{name}.log")


def search(job: Job, steps: int, logs: Path) -> tuple[TrainerSettings, dict[str, float | str]]:
    """The fastest settings of Trainer, keeping each change that helps; and steps per second of all that were tried."""
    tried: dict[str, float | str] = {}

    def rate(settings: TrainerSettings) -> float:
        try:
            with start("tuned", job, settings, logs) as system:
                for _ in range(WARMUP):
                    system.run(steps)
                measured = max(steps / system.run(steps).seconds for _ in range(2))
        except ProcessError as error:
            tried[str(settings)] = str(error)
            return 0.0
        tried[str(settings)] = measured
        return measured

    best, fastest = TUNED, rate(TUNED)
    changes: list[dict[str, Any]] = [{"num_workers": 0}, {"micro_size": job.batch // 2}, {"compile": True}]
    for change in changes:
        if change.get("micro_size") == 0:
            continue
        candidate = dataclasses.replace(best, **change)
        measured = rate(candidate)
        if measured > fastest:
            best, fastest = candidate, measured
    if best.micro_size and best.micro_size > 1:
        candidate = dataclasses.replace(best, micro_size=best.micro_size // 2)
        if rate(candidate) > fastest:
            best = candidate
    console.print(f"fastest settings of Trainer for {job.shape.name}: {best}")
    return best, tried


def measure(
    job: Job, names: list[str], settings: TrainerSettings, steps: int, num_rounds: int, logs: Path
) -> dict[str, list[Measurement]]:
    """{system: measurements}: the first step, then the warm-up as one measurement, then the rounds."""
    measured: dict[str, list[Measurement]] = {}
    with ExitStack() as running:
        started = {name: running.enter_context(start(name, job, settings, logs)) for name in names}
        for name, system in started.items():
            measured[name] = [system.run(1), system.run(WARMUP * steps)]
        for _ in range(num_rounds):
            for name, system in started.items():
                measured[name].append(system.run(steps))
    return measured


def evaluate(
    measured: dict[str, list[Measurement]],
    job: Job,
    length: int,
    steps: int,
    peak: dict[str, float],
    settings: TrainerSettings,
) -> dict[str, Any]:
    """The figures of each system."""
    tokens = steps * job.batch * length
    names = {"trainer": str(NOTEBOOK), "tuned": str(settings), "plain": "bf16", "mlm-dist": "bf16"}
    result: dict[str, Any] = {}
    rates = {name: [tokens / one.seconds for one in rounds[2:]] for name, rounds in measured.items()}
    for name, rounds in measured.items():
        precision = "fp32" if name == "trainer" else "bf16"
        speed = common.spread(rates[name])
        result[name] = {
            "settings": names[name] + ("; " + " ".join(job.flags) if name == "mlm-dist" and job.flags else ""),
            "tokens_per_second": speed,
            "rounds": rates[name],
            "speedup": common.ratios(rates["mlm-dist"], rates[name]) if "mlm-dist" in rates else None,
            "share_of_peak": speed.median * job.shape.flops_per_token(length) / peak[precision],
            "peak_precision": precision,
            "peak_memory_bytes": rounds[-1].peak_memory,
            "first_step_seconds": rounds[0].seconds,
        }
    return result


def show(case: dict[str, Any]) -> None:
    """Print the table of a case."""
    title = f"{case['model']}, {case['length']} tokens, {case['batch']} rows per step"
    table = Table("", "tokens/s", "speedup of mlm-dist", "of GEMM peak", "peak memory", "first step", title=title)
    for name, system in case["systems"].items():
        table.add_row(
            f"{name} ({system['settings']})",
            f"{system['tokens_per_second'].median:,.0f}",
            str(system["speedup"] or ""),
            f"{system['share_of_peak']:.0%} of {system['peak_precision']}",
            f"{system['peak_memory_bytes'] / 2**20:,.0f} MiB",
            f"{system['first_step_seconds']:.1f} s",
        )
    console.print(table)


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", type=names, default=list(STEPS), help="bert-base or LAYERSxHIDDEN, separated by commas")
    add("--lengths", type=lambda text: [int(one) for one in names(text)], default=[128, 512], help="tokens per row")
    add("--systems", type=names, default=list(NAMES), help=", ".join(NAMES))
    add("--rounds", type=int, default=5, help="rounds that count")
    add("--batch", type=int, default=2048, help="tokens per step")
    add("--steps", type=int, help="steps per round; by default 1, 4 or 16, depending on the model")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--vocabulary", type=int, default=workload.VOCABULARY, help="tokens of tokenizer and model")
    add("--no-search", dest="search", action="store_false", help="do not search settings for the tuned Trainer")
    add("--peak-seconds", type=float, default=3.0, help="time to measure the GEMM peak of each precision")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for the output of the systems; by default it is not kept")
    add("--output", type=Path, default=common.RESULTS / "throughput.json")
    add("flags", nargs="*", help="after --: further flags of train.py for mlm-dist")
    arguments = parser.parse_args()
    common.require_known(parser, "--systems", arguments.systems, NAMES)
    return arguments


if __name__ == "__main__":
    main()
