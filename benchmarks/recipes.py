"""Recipes compared at equal compute: validation loss per character, three seeds.

    python benchmarks/recipes.py --source my_docs --start python-docs       # all recipes; each core trains one
    python benchmarks/recipes.py --recipes truncate,chunk,pack              # some, from random weights

A recipe differs from the baseline (chunk, 15% of the tokens masked, AdamW) in one thing and trains for the same number
of FLOPs: 6L(12H^2) + 12LHs + 6p(HV + H^2) per position of a row, padding included, where p is its masking rate. All
recipes are validated alike: the validation documents are cut into chunks with the recipe's own tokenizer, 15% of the
tokens are masked, always the same, and the loss is divided by the characters of these tokens. This makes tokenizers
comparable: longer tokens are fewer and harder to predict. FLOPs are counted, so the load of the machine does not
matter. Prints a table and writes results/recipes.json.

With --start, all recipes continue from one model that was trained on other documents, as most people continue from a
general model. From random weights, a small model needs some hundred steps to get past unigram frequencies. How many
depends on chance, and short runs mostly measure this chance.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import recipe_runs
from common import console
from recipe_runs import Part, Recipe
from rich.table import Table

BASELINE = "chunk"


def _masked(share: float, rate: float, **optim: Any) -> Part:
    return Part(share, rate, {"masking": {"probability": rate}, "optim": optim})


def _stable(share: float, rate: float) -> Part:
    return _masked(share, rate, schedule="constant")


def _decay(share: float, rate: float, *, schedule: str = "sqrt", floor: float = 0.0) -> Part:
    return _masked(share, rate, schedule=schedule, floor=floor)


def _causal(share: float) -> Part:
    return Part(share, 1.0, {"objective": "causal_lm", "optim": {"schedule": "constant"}})


RECIPES = {
    BASELINE: Recipe(),
    "truncate": Recipe(["--rows.mode=truncate"]),
    "pack": Recipe(["--rows.mode=pack"]),
    "mask 30%": Recipe(["--masking.probability=0.3"], masked=0.3),
    "mask 30% to 15%": Recipe(["--masking.probability=0.3", "--masking.final_probability=0.15"], masked=0.225),
    "whole words": Recipe(["--masking.unit=word"]),
    "spans": Recipe(["--masking.unit=span"]),
    "StableAdamW": Recipe(["--optim.name=stableadamw"]),
    "Muon": Recipe(["--optim.name=muon"]),
    "wsd": Recipe(["--optim.schedule=wsd"]),
    "wsd at half the rate": Recipe(["--optim.schedule=wsd"], lr=0.5),
    "200 domain tokens": Recipe(["--tokenizer.add_domain_tokens=200"]),
    "layer decay 0.9": Recipe(["--optim.layer_lr_decay=0.9"]),
    # What follows masks 30% in most steps, so compare it with "mask 30%".
    "30% then 15% while decaying": Recipe(phases=(_stable(0.8, 0.3), _decay(0.2, 0.15))),
    "30% and 30% while decaying": Recipe(phases=(_stable(0.8, 0.3), _decay(0.2, 0.3))),
    "30% then 15% then 5%": Recipe(phases=(_stable(0.7, 0.3), _stable(0.2, 0.15), _decay(0.1, 0.05))),
    "causal then masked 10 to 1": Recipe(phases=(_causal(10 / 11), _decay(1 / 11, 0.15, floor=0.1))),
    "causal then masked 1 to 3": Recipe(phases=(_causal(0.25), _decay(0.75, 0.3, schedule="linear"))),
    "30% with EMA 0.98": Recipe(["--masking.probability=0.3", "--optim.ema_decay=0.98", "--export.average=ema"], 0.3),
    "30% mean of 4 of 16 checkpoints": Recipe(
        ["--masking.probability=0.3", "--export.average=4", "--checkpoint.keep_last=4"], 0.3, checkpoints=16
    ),
}


def main() -> None:
    """Train all recipes, one on each core at a time."""
    arguments = _arguments()
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in arguments.recipes]
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.recipes}
    with tempfile.TemporaryDirectory() as folder:

        def train(one: tuple[str, int]) -> tuple[str, int, dict[str, float]]:
            (name, seed), core = one, cores.get()
            run = Path(folder) / f"{name}-{seed}".replace(" ", "_").replace("%", "")
            try:
                return *one, recipe_runs.train(RECIPES[name], seed, arguments, run, core)
            finally:
                cores.put(core)

        if arguments.start is not None:
            console.print(f"training the initial model on {arguments.start}")
            arguments.model_folder = recipe_runs.train_start(RECIPES[BASELINE], arguments, Path(folder))
        # Before the runs, because they would wait for each other.
        recipe_runs.prepare_rows([RECIPES[name] for name in arguments.recipes], arguments)
        with ThreadPoolExecutor(cores.qsize()) as pool:
            for name, seed, result in pool.map(train, wanted):
                results[name].append(result)
                console.print(f"{name}, seed {seed}: {result['per_character']:.4f} nats per character")
                write(results, arguments)
    show(results, arguments)


def write(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Write the results so far; keep those of other sources, and of other recipes under the same conditions."""
    path: Path = arguments.output
    sources = json.loads(path.read_text("utf-8"))["sources"] if path.is_file() else {}
    conditions = ("model", "length", "vocabulary", "start", "start_work", "work", "lr")
    about = {name: getattr(arguments, name) for name in conditions}
    about["start"] = arguments.start and Path(arguments.start).name
    name = Path(arguments.source).name
    earlier = sources.get(name, {})
    recipes = earlier["recipes"] if {key: earlier.get(key) for key in about} == about else {}
    new = {recipe: RECIPES[recipe].to_json() | {"seeds": runs} for recipe, runs in results.items() if runs}
    common.write(path, sources=sources | {name: about | {"recipes": recipes | new}})


def show(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Print the table; differences are per seed."""
    table = Table(
        *("recipe", "nats per character", "difference", "steps", "seconds"),
        title=f"{arguments.model}, {arguments.work:.3g} FLOPs each, {arguments.seeds} seeds, {arguments.source}",
    )
    for name, runs in results.items():
        values = [run["per_character"] for run in runs]
        baseline = [run["per_character"] for run in results.get(BASELINE, [])]
        pairs = [one - other for one, other in zip(values, baseline, strict=False)]
        table.add_row(
            name,
            _spread(values),
            _spread(pairs, sign="+") if pairs and name != BASELINE else "",
            f"{runs[0]['steps']:,.0f}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
        )
    console.print(table)


def _spread(values: list[float], sign: str = "") -> str:
    mean, deviation = common.mean_and_deviation(values)
    return f"{mean:{sign}.4f} ± {deviation:.4f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipes", type=lambda text: text.split(","), default=list(RECIPES), help=", ".join(RECIPES))
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--model", default="2x128", help="LAYERSxHIDDEN, from random weights")
    add("--length", type=int, default=128, help="tokens per row")
    add("--vocabulary", type=int, default=4096, help="tokens of the tokenizer that is trained")
    add("--work", type=float, default=2e13, help="FLOPs of each run")
    add("--lr", type=float, help="peak learning rate of the baseline; by default 4e-3 with --start, else 3e-3")
    add("--start", help="documents to train the initial model on; by default its weights are random")
    add("--start-work", type=float, default=1e13, help="FLOPs of that training")
    add("--start-lr", type=float, default=3e-3, help="its peak learning rate")
    add("--seeds", type=int, default=3)
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "recipes.json")
    parser.set_defaults(model_folder=None)
    arguments = parser.parse_args()
    arguments.lr = arguments.lr or (4e-3 if arguments.start else 3e-3)
    arguments.start_work = arguments.start_work if arguments.start else None
    common.require_known(parser, "--recipes", arguments.recipes, RECIPES)
    return arguments


if __name__ == "__main__":
    main()
