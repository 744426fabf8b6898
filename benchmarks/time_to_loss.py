"""Time to reach the validation loss of the notebook's recipe: same documents, same initial weights, same machine.

    python benchmarks/time_to_loss.py --source my_docs                     # 6x384 from random weights
    python benchmarks/time_to_loss.py --source my_docs --model CHECKPOINT  # from the weights of a checkpoint
    python benchmarks/time_to_loss.py --source my_docs --quality           # equal tokens instead of equal loss

The notebook's recipe (the first 128 tokens of each document, `Trainer` in fp32, batches of 16, a learning rate that
falls linearly from 5e-5, 3 epochs) runs to its end. Then this project trains on whole documents for the same time and
measures its validation loss on the way. The clocks start with the first step and stop while a loss is measured, by one
function for both recipes, in fp32, with the same masks. `first` is the loss on the first 128 tokens of the validation
documents, the task of the notebook's recipe; `whole` is the loss on chunks of the whole documents.

--quality compares this project's fast path (masked head, bf16, packed rows) with a slow one (dense head, fp32, one
chunk per row) after the same number of tokens, with three seeds. Prints a table and writes results/time_to_loss.json or
results/quality.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import loss_curves
import processes
import workload
from common import console
from loss_curves import Point, RunSettings, Setup
from rich.table import Table
from systems import BF16, ON_CPU

# Flags of this project's run. The learning rate is constant, because the run ends by the clock.
FAST = ["--batch.global_size=16", "--optim.schedule=constant", "--optim.warmup=20"]
NUM_VALIDATIONS = 40  # in the notebook's time


@dataclass(frozen=True)
class Round:
    """A run of each recipe, from the same weights.

    Args:
        notebook: The end of the notebook's run.
        curve: The losses of this project up to the same time.
    """

    notebook: Point
    curve: list[Point]

    def share_of_time(self, part: str) -> float:
        """The time to reach the notebook's loss, as a fraction of the notebook's time; infinite if not reached."""
        target = self.notebook.losses[part]
        reached = (point.seconds for point in self.curve if point.losses[part] <= target)
        return next(reached, math.inf) / self.notebook.seconds


def main() -> None:
    """Measure the time to the notebook's loss, or the quality of the fast path."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        start = Path(folder) / "start"
        setup = processes.call(
            loss_curves.setup, arguments.model, arguments.source, arguments.vocabulary, arguments.cache, start
        )
        facts = {
            "model": arguments.model,
            "source": Path(arguments.source).name,
            "rows": setup.num_rows,
            "flags": arguments.flags,
        }
        (quality if arguments.quality else time_to_loss)(arguments, setup, facts, logs)


def time_to_loss(arguments: argparse.Namespace, setup: Setup, facts: dict[str, Any], logs: Path) -> None:
    """Run the notebook's recipe and this project's in alternation."""
    lr = arguments.lr or (2e-4 if setup.is_checkpoint else 1e-3)
    flags = [*FAST, f"--optim.lr={lr}", "--validation.every=4", "--optim.duration=1000000 steps", *arguments.flags]
    rounds: list[Round] = []
    for i in range(arguments.rounds):
        notebook = processes.call(
            loss_curves.notebook, setup, arguments.epochs, i, environment=ON_CPU, log=logs / "notebook.log"
        )
        settings = RunSettings([*flags, f"--seed={i}"], notebook.seconds / NUM_VALIDATIONS, notebook.seconds)
        curve = processes.call(
            loss_curves.mlm_dist, setup, settings, environment=ON_CPU | BF16, log=logs / "mlm-dist.log"
        )
        rounds.append(Round(notebook, curve))
        console.print(
            f"round {i + 1}: the notebook's recipe reaches a validation loss of {notebook.losses['first']:.3f} in "
            f"{notebook.seconds:.0f} s; mlm_dist in {_share(rounds[-1].share_of_time('first'))} of that"
        )
    table = Table(
        *("measured on", "notebook's loss", "reached after, of its time", "loss at equal time"),
        title=f"{arguments.model}, {arguments.rounds} rounds: median, minimum, maximum",
    )
    result = {}
    for part in ("first", "whole"):
        at_start = rounds[0].curve[0].losses[part]
        shares = common.spread([one.share_of_time(part) for one in rounds])
        of_notebook = common.spread([one.notebook.losses[part] for one in rounds])
        at_end = common.spread([one.curve[-1].losses[part] for one in rounds])
        result[part] = {
            "loss_at_start": at_start,
            "notebook_loss": of_notebook,
            "share_of_notebook_time": shares,
            "loss_at_equal_time": at_end,
        }
        share = " ".join(_share(value) for value in (shares.median, shares.min, shares.max))
        table.add_row(f"{part} (from {at_start:.3f})", str(of_notebook), share, str(at_end))
    console.print(table)
    common.write(
        arguments.output or common.RESULTS / "time_to_loss.json",
        **facts,
        lr=lr,
        notebook_seconds=common.spread([one.notebook.seconds for one in rounds]),
        validation=result,
        rounds=[
            {"notebook": one.notebook._asdict(), "mlm-dist": [point._asdict() for point in one.curve]} for one in rounds
        ],
    )


def quality(arguments: argparse.Namespace, setup: Setup, facts: dict[str, Any], logs: Path) -> None:
    """Train the fast path and the slow one on the same number of tokens."""
    lr = arguments.lr or (1e-4 if setup.is_checkpoint else 1e-3)
    paths = {
        "fast": (BF16, ["--rows.mode=pack"]),
        "slow": ({}, ["--rows.mode=chunk", "--model.masked_head=false"]),
    }
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for seed in range(arguments.seeds):
        for name, (environment, path_flags) in paths.items():
            flags = [*path_flags, f"--seed={seed}", f"--optim.lr={lr}"]
            flags += ["--batch.global_size=16", "--validation.every=null", *arguments.flags]
            settings = RunSettings(flags, tokens=arguments.tokens)
            curve = processes.call(
                loss_curves.mlm_dist, setup, settings, environment=ON_CPU | environment, log=logs / f"{name}.log"
            )
            losses[name].append(curve[-1].losses)
            console.print(f"seed {seed}, {name}: validation loss {curve[-1].losses['whole']:.4f}")
    table = Table(
        *("measured on", "fast: mean and deviation", "slow: mean and deviation", "fast - slow"),
        title=f"{arguments.model}, {arguments.tokens:,} tokens, {arguments.seeds} seeds",
    )
    result: dict[str, Any] = {}
    for part in ("first", "whole"):
        values = {name: [one[part] for one in runs] for name, runs in losses.items()}
        fast, slow = (common.mean_and_deviation(values[name]) for name in paths)
        pairs = [one - other for one, other in zip(values["fast"], values["slow"], strict=True)]
        result[part] = {**values, "difference": common.mean_and_deviation(pairs)}
        both = (f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in (fast, slow))
        table.add_row(part, *both, f"{fast[0] - slow[0]:+.4f}")
    console.print(table)
    common.write(
        arguments.output or common.RESULTS / "quality.json", **facts, lr=lr, tokens=arguments.tokens, validation=result
    )


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "never"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="6x384", help="LAYERSxHIDDEN from random weights, or the folder of a checkpoint")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--rounds", type=int, default=5, help="runs of each recipe, alternating")
    add("--epochs", type=float, default=3.0, help="epochs of the notebook's recipe")
    add("--lr", type=float, help="learning rate; by default 1e-3 from scratch, else 2e-4 (with --quality 1e-4)")
    add("--quality", action="store_true", help="compare the fast path with the slow one at equal tokens")
    add("--tokens", type=int, default=400_000, help="with --quality: tokens of each run")
    add("--seeds", type=int, default=3, help="with --quality")
    add("--vocabulary", type=int, default=workload.VOCABULARY, help="tokens of a tokenizer trained from scratch")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for the output of the runs; by default it is not kept")
    add("--output", type=Path, help="by default results/time_to_loss.json or results/quality.json")
    add("flags", nargs="*", help="after --: further flags of train.py for this project")
    return parser.parse_args()


if __name__ == "__main__":
    main()
