"""Start-up on a prepared corpus: the time of `train.py` to its first step, the time of `plan.py`, and their parts.

    python benchmarks/startup.py
    python benchmarks/startup.py --checkout ../before --python ../before/.venv/bin/python --flags '--optim.steps 100'

The first step is done when the first `train` line is in metrics.jsonl, with logging.every 1; the run is then killed.
`plan.py` runs to its end. Both are started as by a user. The parts are measured in runs of their own, in which the
functions of the job are timed (startup_parts.py).

--checkout measures another checkout of this repository as well, in alternation, without parts. --flags replaces the
flag that sets the length of its runs. All rounds alternate; the first one is not counted. CPU seconds depend less on
the load of the machine than seconds. Prints tables of medians and writes results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import common
import startup_parts
from common import console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DURATION = "--optim.duration=1000 steps"
POLL_SECONDS = 0.01
TIMEOUT_SECONDS = 600


class Cost(NamedTuple):
    """The cost of a start-up: seconds, and CPU seconds of all threads."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Checkout:
    """A version of this repository.

    Args:
        folder: Its root.
        python: Its interpreter.
        flags: Flags of `train.py` and `plan.py`, without output_dir.
    """

    folder: Path
    python: str
    flags: list[str]

    def start(self, program: list[str], flags: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program of this version with its flags."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "HF_HUB_OFFLINE": "1"}
        command = [self.python, *program, *self.flags, *flags]
        with open(log, "wb") as file:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def prepare(self, folder: Path) -> None:
        """Prepare the corpus."""
        self._finish(self.start(["mlm_dist/prepare.py"], [], folder / "log"), folder / "log")

    def train(self, folder: Path) -> Cost:
        """The cost of `train.py` up to its first train line."""
        log, metrics = folder / "log", folder / "run" / "metrics.jsonl"
        before, began = _cpu_seconds_of_children(), time.perf_counter()
        process = self.start(
            ["mlm_dist/train.py"], [f"--output_dir={folder / 'run'}", "--logging.every=1"], folder / "log"
        )
        try:
            while not _has_train_line(metrics):
                if process.poll() is not None or time.perf_counter() - began > TIMEOUT_SECONDS:
                    raise SystemExit(f"error: no step was done:\n{log.read_text('utf-8', 'replace')[-2000:]}")
                time.sleep(POLL_SECONDS)
            seconds = time.perf_counter() - began
        finally:
            process.kill()
            process.wait()
        return Cost(seconds, _cpu_seconds_of_children() - before)

    def plan(self, folder: Path) -> Cost:
        """The cost of `plan.py`."""
        before, began = _cpu_seconds_of_children(), time.perf_counter()
        process = self.start(["mlm_dist/plan.py"], [f"--output_dir={folder / 'run'}"], folder / "log")
        self._finish(process, folder / "log")
        return Cost(time.perf_counter() - began, _cpu_seconds_of_children() - before)

    def parts(self, job: str, folder: Path) -> dict[str, float]:
        """{part: seconds} of the start-up of a job of this repository."""
        output = folder / "parts.json"
        program = [startup_parts.__file__, job, repr(time.perf_counter()), str(output)]
        flags = [f"--output_dir={folder / 'run'}", *(["--logging.every=1"] if job == "train" else [])]
        self._finish(self.start(program, flags, folder / "log"), folder / "log")
        seconds: dict[str, float] = json.loads(output.read_text("utf-8"))
        return seconds

    def _finish(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.wait(TIMEOUT_SECONDS):
            raise SystemExit(f"error: {process.args!r} failed:\n{log.read_text('utf-8')[-2000:]}")


def main() -> None:
    """Measure in alternation."""
    arguments = _arguments()
    common_flags = [f"--corpus.source={arguments.source}", f"--corpus.cache_dir={arguments.cache}"]
    here = Checkout(ROOT, sys.executable, [*common_flags, DURATION, *arguments.train_flags])
    checkouts = {"this checkout": here}
    if arguments.checkout:
        flags = [*common_flags, *shlex.split(arguments.flags or shlex.quote(DURATION)), *arguments.train_flags]
        checkouts["other checkout"] = Checkout(arguments.checkout.resolve(), arguments.python, flags)
    totals: dict[str, dict[str, list[Cost]]] = {job: {name: [] for name in checkouts} for job in ("train", "plan")}
    parts: dict[str, list[dict[str, float]]] = {job: [] for job in totals}
    for checkout in checkouts.values():
        with tempfile.TemporaryDirectory() as folder:
            checkout.prepare(Path(folder))
    for i in range(arguments.rounds + 1):
        for name, checkout in list(checkouts.items())[:: 1 if i % 2 else -1]:
            for job, measure in (("train", checkout.train), ("plan", checkout.plan)):
                with tempfile.TemporaryDirectory() as folder:
                    cost = measure(Path(folder))
                if i:
                    totals[job][name].append(cost)
        for job, rounds in parts.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds_of_parts = here.parts(job, Path(folder))
            if i:
                rounds.append(seconds_of_parts)
    result = {job: figures(totals[job], parts[job]) for job in totals}
    for job, one in result.items():
        show(job, one)
    common.write(arguments.output, source=Path(arguments.source).name, flags=arguments.train_flags, **result)


def figures(totals: dict[str, list[Cost]], rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The cost of each checkout, its ratio to that of this one, and the median seconds of each part."""
    costs = {name: [list(values) for values in zip(*of_rounds, strict=True)] for name, of_rounds in totals.items()}
    names = list(dict.fromkeys(name for parts in rounds for name in parts))
    return {
        "checkouts": {
            name: {
                kind: {"value": common.spread(values), "ratio": common.ratios(here, values)}
                for kind, values, here in zip(Cost._fields, of_checkout, costs["this checkout"], strict=True)
            }
            for name, of_checkout in costs.items()
        },
        "parts": {name: statistics.median(parts.get(name, 0.0) for parts in rounds) for name in names},
    }


def show(job: str, result: dict[str, Any]) -> None:
    """Print the table of a job."""
    until = "to its first step" if job == "train" else "to its end"
    table = Table(f"{job}.py {until}", "seconds", "this / it", "CPU seconds", "this / it")
    for name, costs in result["checkouts"].items():
        table.add_row(name, *(str(cost[kind]) for cost in costs.values() for kind in ("value", "ratio")))
    console.print(table)
    table = Table(f"parts of {job}.py", "seconds")
    for name, seconds in result["parts"].items():
        table.add_row(name, f"{seconds:.2f}")
    table.add_row("sum", f"{sum(result['parts'].values()):.2f}")
    console.print(table)


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _has_train_line(metrics: Path) -> bool:
    return metrics.exists() and b'"kind": "train"' in metrics.read_bytes()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds that count")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--checkout", type=Path, help="another checkout of this repository to measure as well")
    add("--python", default=sys.executable, help="the interpreter of the other checkout")
    add("--flags", help=f"flags of the other checkout instead of '{DURATION}'")
    add("--output", type=Path, default=common.RESULTS / "startup.json")
    add("train_flags", nargs="*", help="after --: further flags of train.py and plan.py")
    return parser.parse_args()


if __name__ == "__main__":
    main()
