"""Tokens per second of a training step, against Trainer and a plain Accelerate loop, taking turns in one run.

    python benchmarks/throughput.py                                 # three models, 128 and 512 tokens: ~45 minutes
    python benchmarks/throughput.py --models 6x384 --lengths 128    # one case: ~10 minutes
    python benchmarks/throughput.py --contenders mlm-dist -- --model.masked_head=false    # this project alone

Contenders: mlm-dist is `train.py` itself in bf16, unchanged; trainer is `transformers.Trainer` as the notebook sets it
up, in fp32 with its defaults; tuned is Trainer in bf16 with the settings that a search in the same run found fastest;
plain is a minimal Accelerate loop in bf16. Each runs in a process of its own and waits while the others work. All have
the same rows, model, dropout, masking rate and batch. Prints a table per case and writes results/throughput.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
import contenders
import workload
from common import say
from contenders import BF16, NOTEBOOK, ON_CPU, TUNED, Task, Tuning
from contest import Contender, Failed, Lap, apart
from rich.table import Table

NAMES = ("mlm-dist", "trainer", "tuned", "plain")
UPDATES = {"bert-base": 1, "6x384": 4, "2x128": 16}  # per turn: seconds, not minutes
WARMUP = 2  # turns before those that count


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
            tuning = TUNED
            tried: dict[str, float | str] = {}
            updates = arguments.steps or UPDATES.get(model, 4)
            for length in arguments.lengths:
                flags, corpus, rows = apart(
                    workload.full_rows, arguments.source, arguments.vocabulary, length, arguments.cache
                )
                batch = arguments.batch // length
                if not 1 <= batch <= rows:
                    raise SystemExit(f"--batch: {arguments.batch} tokens are {batch} rows, of 1 to {rows} there are")
                task = Task(flags, corpus, shape, batch, arguments.keys)
                for precision, rate in apart(common.gemm_peak, arguments.peak_seconds).items():
                    peak[precision] = max(rate, peak.get(precision, 0.0))
                if "tuned" in arguments.contenders and arguments.search and not tried:
                    tuning, tried = search(task, updates, logs)
                say(f"{model}, {length} tokens: {arguments.rounds} rounds of {updates} updates of {batch} rows")
                laps = race(task, arguments.contenders, tuning, updates, arguments.rounds, logs)
                cases.append({"model": model, "length": length, "batch": batch, "updates": updates, "tried": tried})
                cases[-1] |= {"contenders": judge(laps, task, length, updates, peak, tuning)}
                show(cases[-1])
                # After every case, so that a run that is cut short leaves what it has.
                common.write(arguments.output, source=Path(arguments.source).name, gemm_peak_flops=peak, cases=cases)


def start(name: str, task: Task, tuning: Tuning, logs: Path) -> Contender:
    """A contender in its process."""
    work: dict[str, tuple[Any, ...]] = {
        "mlm-dist": (contenders.mlm_dist, task),
        "trainer": (contenders.trainer, task, NOTEBOOK),
        "tuned": (contenders.trainer, task, tuning),
        "plain": (contenders.plain, task),
    }
    environment = ON_CPU | (BF16 if name == "mlm-dist" else {})
    return Contender(*work[name], environment=environment, log=logs / f"{name}.log")


def search(task: Task, updates: int, logs: Path) -> tuple[Tuning, dict[str, float | str]]:
    """The fastest settings of Trainer, each change kept if it helps; and updates per second of all that were tried."""
    tried: dict[str, float | str] = {}

    def rate(tuning: Tuning) -> float:
        try:
            with start("tuned", task, tuning, logs) as contender:
                for _ in range(WARMUP):
                    contender.run(updates)
                found = max(updates / contender.run(updates).seconds for _ in range(2))
        except Failed as error:
            tried[str(tuning)] = str(error)
            return 0.0
        tried[str(tuning)] = found
        return found

    best, fastest = TUNED, rate(TUNED)
    changes: list[dict[str, Any]] = [{"num_workers": 0}, {"micro_size": task.batch // 2}, {"compile": True}]
    for change in changes:
        if change.get("micro_size") == 0:
            continue
        candidate = dataclasses.replace(best, **change)
        found = rate(candidate)
        if found > fastest:
            best, fastest = candidate, found
    if best.micro_size and best.micro_size > 1:
        candidate = dataclasses.replace(best, micro_size=best.micro_size // 2)
        if rate(candidate) > fastest:
            best = candidate
    say(f"fastest settings of Trainer for {task.shape.name}: {best}")
    return best, tried


def race(task: Task, names: list[str], tuning: Tuning, updates: int, rounds: int, logs: Path) -> dict[str, list[Lap]]:
    """{contender: its laps}: the first update, then the warm-up as one lap, then the rounds."""
    laps: dict[str, list[Lap]] = {name: [] for name in names}
    with ExitStack() as running:
        started = {name: running.enter_context(start(name, task, tuning, logs)) for name in names}
        for name, contender in started.items():
            laps[name] = [contender.run(1), contender.run(WARMUP * updates)]
        for _ in range(rounds):
            for name, contender in started.items():
                laps[name].append(contender.run(updates))
    return laps


def judge(
    laps: dict[str, list[Lap]], task: Task, length: int, updates: int, peak: dict[str, float], tuning: Tuning
) -> dict[str, Any]:
    """What the laps say of each contender."""
    tokens = updates * task.batch * length
    settings = {"trainer": str(NOTEBOOK), "tuned": str(tuning), "plain": "bf16", "mlm-dist": "bf16"}
    found: dict[str, Any] = {}
    rates = {name: [tokens / lap.seconds for lap in those[2:]] for name, those in laps.items()}
    for name, those in laps.items():
        precision = "fp32" if name == "trainer" else "bf16"
        speed = common.spread(rates[name])
        found[name] = {
            "settings": settings[name] + ("; " + " ".join(task.keys) if name == "mlm-dist" and task.keys else ""),
            "tokens_per_second": speed,
            "rounds": rates[name],
            "times_faster": common.ratios(rates["mlm-dist"], rates[name]) if "mlm-dist" in rates else None,
            "share_of_peak": speed.median * task.shape.flops_per_token(length) / peak[precision],
            "peak_precision": precision,
            "peak_memory_bytes": those[-1].peak_memory,
            "first_update_seconds": those[0].seconds,
        }
    return found


def show(case: dict[str, Any]) -> None:
    """Print the table of a case."""
    title = f"{case['model']}, {case['length']} tokens, {case['batch']} rows per update"
    table = Table("", "tokens/s", "mlm-dist is faster", "of GEMM peak", "peak memory", "first update", title=title)
    for name, one in case["contenders"].items():
        table.add_row(
            f"{name} ({one['settings']})",
            f"{one['tokens_per_second'].median:,.0f}",
            str(one["times_faster"] or ""),
            f"{one['share_of_peak']:.0%} of {one['peak_precision']}",
            f"{one['peak_memory_bytes'] / 2**20:,.0f} MiB",
            f"{one['first_update_seconds']:.1f} s",
        )
    say(table)


def _arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=words, default=list(UPDATES), help="bert-base, or LAYERSxHIDDEN; commas between"
    )
    parser.add_argument("--lengths", type=lambda text: [int(word) for word in words(text)], default=[128, 512])
    parser.add_argument("--contenders", type=words, default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender that count")
    parser.add_argument("--batch", type=int, default=2048, help="tokens per update")
    parser.add_argument("--steps", type=int, help="updates per turn; by default 1, 4 or 16, by model")
    parser.add_argument("--source", default="python-docs", help="documents, as corpus.source")
    parser.add_argument("--vocabulary", type=int, default=workload.VOCABULARY, help="tokens of tokenizer and model")
    parser.add_argument(
        "--no-search", dest="search", action="store_false", help="Trainer tuned without trying settings"
    )
    parser.add_argument("--peak-seconds", type=float, default=3.0, help="how long each precision's GEMM peak is sought")
    parser.add_argument("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    parser.add_argument("--logs", help="folder for what the contenders print; by default it is not kept")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "throughput.json")
    parser.add_argument("keys", nargs="*", help="after --: further flags of train.py for mlm-dist")
    arguments = parser.parse_args()
    for name in set(arguments.contenders) - set(NAMES):
        parser.error(f"--contenders: {name} is none of {', '.join(NAMES)}")
    return arguments


if __name__ == "__main__":
    main()
