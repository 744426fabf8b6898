"""How soon the notebook's held-out loss is reached, on the same documents, from the same weights, on the same machine.

    python benchmarks/time_to_loss.py --source path/to/docs                     # 6x384 from random weights
    python benchmarks/time_to_loss.py --source path/to/docs --model CHECKPOINT  # from a checkpoint's weights
    python benchmarks/time_to_loss.py --source path/to/docs --quality           # equal tokens instead of equal loss

The notebook's recipe (the first 128 tokens of each document, `Trainer` in fp32, batches of 16, 5e-5 falling linearly, 3
epochs) runs to its end. Then this project trains on whole documents until it has taken as long; on the way its held-out
loss is looked at. Both clocks start with the first update and stand still while a loss is measured, by one function for
both, in fp32, with the same masks. `first` is the loss on the first 128 tokens of the held-out documents, what the
notebook's recipe is made for; `whole` that on chunks from all over them.

--quality: this project's fast path (masked head, bf16, packed rows) against its slow one (dense head, fp32, one window
a row) after the same number of tokens, three seeds. Prints a table, writes results/time_to_loss.json or quality.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import rivals
import workload
from common import say
from contenders import BF16, ON_CPU
from contest import apart
from rich.table import Table
from rivals import Ground, Recipe

# What this project's run is told, beyond its defaults. The rate stays, because the run ends by the clock.
FAST = ["--batch.global_size=16", "--optim.schedule=constant", "--optim.warmup=20"]
LOOKS = 40  # at the held-out loss, in the notebook's time


@dataclass(frozen=True)
class Round:
    """One run of each, from the same weights.

    Args:
        notebook: What the notebook's recipe came to.
        ours: This project's curve, until the notebook's time was over.
    """

    notebook: rivals.Point
    ours: list[rivals.Point]

    def share_of_time(self, held_out: str) -> float:
        """When the notebook's loss was reached, as a share of the time the notebook took; infinite if it was not."""
        target = self.notebook.losses[held_out]
        reached = (point.seconds for point in self.ours if point.losses[held_out] <= target)
        return next(reached, math.inf) / self.notebook.seconds


def main() -> None:
    """Measure one or the other."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(arguments.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        start = Path(folder) / "start"
        ground = apart(rivals.ground, arguments.model, arguments.source, arguments.vocabulary, arguments.cache, start)
        facts = {
            "model": arguments.model,
            "source": Path(arguments.source).name,
            "rows": ground.num_rows,
            "keys": arguments.keys,
        }
        (quality if arguments.quality else time_to_loss)(arguments, ground, facts, logs)


def time_to_loss(arguments: argparse.Namespace, ground: Ground, facts: dict[str, Any], logs: Path) -> None:
    """The notebook's recipe and this project's, alternating."""
    lr = arguments.lr or (2e-4 if ground.is_checkpoint else 1e-3)
    keys = [*FAST, f"--optim.lr={lr}", "--validation.every=4", "--optim.duration=1000000 steps", *arguments.keys]
    rounds: list[Round] = []
    for i in range(arguments.rounds):
        notebook = apart(rivals.notebook, ground, arguments.epochs, i, environment=ON_CPU, log=logs / "notebook.log")
        recipe = Recipe([*keys, f"--seed={i}"], notebook.seconds / LOOKS, notebook.seconds)
        ours = apart(rivals.ours, ground, recipe, environment=ON_CPU | BF16, log=logs / "mlm-dist.log")
        rounds.append(Round(notebook, ours))
        say(
            f"round {i + 1}: the notebook's recipe took {notebook.seconds:.0f} s to a held-out loss of "
            f"{notebook.losses['first']:.3f}; this project {_share(rounds[-1].share_of_time('first'))} of that"
        )
    table = Table(
        *("held out", "notebook's loss", "reached in, of its time", "loss at equal time"),
        title=f"{arguments.model}, {arguments.rounds} rounds: median, least, greatest",
    )
    result = {}
    for held_out in ("first", "whole"):
        shares = common.spread([one.share_of_time(held_out) for one in rounds])
        theirs = common.spread([one.notebook.losses[held_out] for one in rounds])
        at_end = common.spread([one.ours[-1].losses[held_out] for one in rounds])
        result[held_out] = {
            "loss_at_start": rounds[0].ours[0].losses[held_out],
            "notebook_loss": theirs,
            "share_of_notebook_time": shares,
            "loss_at_equal_time": at_end,
        }
        share = " ".join(_share(value) for value in (shares.median, shares.min, shares.max))
        table.add_row(f"{held_out} (from {rounds[0].ours[0].losses[held_out]:.3f})", str(theirs), share, str(at_end))
    say(table)
    common.write(
        arguments.output or common.RESULTS / "time_to_loss.json",
        **facts,
        lr=lr,
        notebook_seconds=common.spread([one.notebook.seconds for one in rounds]),
        held_out=result,
        rounds=[{"notebook": one.notebook._asdict(), "ours": [p._asdict() for p in one.ours]} for one in rounds],
    )


def quality(arguments: argparse.Namespace, ground: Ground, facts: dict[str, Any], logs: Path) -> None:
    """The fast path and the slow one, the same number of tokens of each."""
    lr = arguments.lr or (1e-4 if ground.is_checkpoint else 1e-3)
    paths = {
        "fast": (BF16, ["--rows.mode=pack"]),
        "slow": ({}, ["--rows.mode=chunk", "--model.masked_head=false"]),
    }
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for seed in range(arguments.seeds):
        for name, (environment, flags) in paths.items():
            keys = [*flags, f"--seed={seed}", f"--optim.lr={lr}", "--batch.global_size=16", "--validation.every=null"]
            recipe = Recipe([*keys, *arguments.keys], tokens=arguments.tokens)
            curve = apart(rivals.ours, ground, recipe, environment=ON_CPU | environment, log=logs / f"{name}.log")
            losses[name].append(curve[-1].losses)
            say(f"seed {seed}, {name}: held-out loss {curve[-1].losses['whole']:.4f}")
    table = Table(
        *("held out", "fast: mean and deviation", "slow: mean and deviation", "fast - slow"),
        title=f"{arguments.model}, {arguments.tokens:,} tokens, {arguments.seeds} seeds",
    )
    result: dict[str, Any] = {}
    for held_out in ("first", "whole"):
        values = {name: [one[held_out] for one in those] for name, those in losses.items()}
        fast, slow = (common.mean_and_deviation(values[name]) for name in paths)
        pairs = [one - other for one, other in zip(values["fast"], values["slow"], strict=True)]
        result[held_out] = {**values, "difference": common.mean_and_deviation(pairs)}
        both = (f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in (fast, slow))
        table.add_row(held_out, *both, f"{fast[0] - slow[0]:+.4f}")
    say(table)
    common.write(
        arguments.output or common.RESULTS / "quality.json", **facts, lr=lr, tokens=arguments.tokens, held_out=result
    )


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "never"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="6x384", help="LAYERSxHIDDEN from random weights, or a checkpoint's folder")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--rounds", type=int, default=5, help="runs of each, alternating")
    add("--epochs", type=float, default=3.0, help="of the notebook's recipe")
    add("--lr", type=float, help="this project's rate; by default 1e-3 from scratch, 2e-4 (--quality: 1e-4) otherwise")
    add("--quality", action="store_true", help="compare the fast path with the slow one at equal tokens")
    add("--tokens", type=int, default=400_000, help="of each run, with --quality")
    add("--seeds", type=int, default=3, help="with --quality")
    add("--vocabulary", type=int, default=workload.VOCABULARY, help="tokens of a tokenizer trained from scratch")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for what the runs print; by default it is not kept")
    add("--output", type=Path, help="by default results/time_to_loss.json or results/quality.json")
    add("keys", nargs="*", help="after --: further flags of train.py for this project")
    return parser.parse_args()


if __name__ == "__main__":
    main()
