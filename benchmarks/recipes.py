"""What each part of a recipe brings, at equal compute: held-out loss per character, three seeds.

    python benchmarks/recipes.py --source path/to/docs --start python-docs  # all recipes; each core trains one
    python benchmarks/recipes.py --recipes truncate,chunk,pack              # some, from random weights

A recipe differs from the base (chunk, masks of 15% of the tokens, AdamW) in one thing, and trains until it has done the
same work: 6L(12H^2) + 12LHs + 6p(HV + H^2) FLOPs per place of a row, padding included, p being its masking rate. What a
recipe has learnt is measured by one rule for all: the held-out documents are cut into chunks by the recipe's own
tokenizer, 15% of the tokens are masked, always the same, and the loss of these is divided by the characters they stand
for. So longer tokens, which are fewer and harder to guess, compare with shorter ones. Work is counted, so it does not
matter how busy the machine is. Prints a table and writes results/recipes.json.

With --start all recipes go on from one model, which was trained on other documents first: as most people train, from a
general model to their own documents. From random weights a small model stays with the frequencies of words for some
hundred updates, for how many is mostly luck, and short runs measure little but that.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import common
import workload
from common import say
from contenders import BF16, ON_CPU
from contest import apart
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BASE = "chunk"
MEASURED = workload.MASKED  # of the held-out tokens are masked
BATCH = 16
# With dropout a model this small stays with the frequencies of words for longer than these runs last.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        flags: Of `train.py`, beyond those of the base.
        masked: Its masking rate, on average over the run.
        lr: Its peak rate as a multiple of the base's.
    """

    flags: list[str] = field(default_factory=list)
    masked: float = workload.MASKED
    lr: float = 1.0


RECIPES = {
    BASE: Recipe(),
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
}


def main() -> None:
    """Train all, two things at a time on two cores, and say what came of each."""
    arguments = _arguments()
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in arguments.recipes]
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.recipes}
    with tempfile.TemporaryDirectory() as folder:

        def one(what: tuple[str, int]) -> tuple[str, int, dict[str, float]]:
            core = cores.get()
            try:
                return *what, trained(*what, arguments, Path(folder), core)
            finally:
                cores.put(core)

        if arguments.start is not None:
            say(f"training the model to begin with on {arguments.start}")
            arguments.model_folder = start(arguments, Path(folder))
        prepared(arguments.recipes, arguments)  # else the first of each would wait for the other
        with ThreadPoolExecutor(cores.qsize()) as pool:
            for name, seed, result in pool.map(one, wanted):
                found[name].append(result)
                say(f"{name}, seed {seed}: {result['per_character']:.4f} nats per character")
                write(found, arguments)
    show(found, arguments)


def start(arguments: argparse.Namespace, folder: Path) -> Path:
    """Train the model that all recipes begin with, on documents of its own, by the base recipe; on all cores."""
    scratch = argparse.Namespace(**vars(arguments) | {"source": arguments.start, "lr": arguments.start_lr})
    _train(flags_of(BASE, scratch), updates_of(BASE, arguments, arguments.start_work), folder / "start")
    return folder / "start" / "model"


def flags_of(name: str, arguments: argparse.Namespace) -> list[str]:
    """The flags of `train.py` for a recipe."""
    recipe = RECIPES[name]
    return [
        *(f"--corpus.source={arguments.source}", f"--corpus.cache_dir={arguments.cache}"),
        *("--corpus.validation_fraction=0.2", f"--rows.max_length={arguments.length}", "--rows.mode=chunk"),
        *_model(arguments),
        *(f"--batch.global_size={BATCH}", f"--optim.lr={arguments.lr * recipe.lr}"),
        *recipe.flags,
    ]


def _model(arguments: argparse.Namespace) -> list[str]:
    if arguments.model_folder is not None:
        return [f"--model.name_or_path={arguments.model_folder}"]
    shape = workload.shape(arguments.model, arguments.vocabulary).overrides | NO_DROPOUT
    return [
        *(f"--tokenizer.train_vocab_size={shape.pop('vocab_size')}", "--model.name_or_path=bert"),
        f"--model.overrides={json.dumps(shape)}",
    ]


def updates_of(name: str, arguments: argparse.Namespace, work: float) -> int:
    """How many updates of a recipe take as much work."""
    shape = workload.shape(arguments.model, arguments.vocabulary)
    per_place = shape.flops_per_token(arguments.length, RECIPES[name].masked)
    return round(work / (per_place * BATCH * arguments.length))


def prepared(names: list[str], arguments: argparse.Namespace) -> None:
    """Prepare the rows of all recipes, and those that each is measured on."""
    wanted = [tuple(_of_rows(flags_of(name, arguments))) for name in names]
    for flags in dict.fromkeys(wanted):  # most recipes have the same rows
        for more in ([], ["--rows.mode=chunk"]):
            _run("prepare.py", [*flags, *more])


def trained(name: str, seed: int, arguments: argparse.Namespace, folder: Path, core: int) -> dict[str, float]:
    """Train a recipe on one core and measure what it has learnt."""
    updates, flags = updates_of(name, arguments, arguments.work), flags_of(name, arguments)
    run = folder / f"{name}-{seed}".replace(" ", "_").replace("%", "")
    began = time.perf_counter()
    _train([*flags, f"--seed={seed}"], updates, run, core)
    seconds = time.perf_counter() - began
    measured: dict[str, float] = apart(measure, run, flags, core, environment=ON_CPU)
    return measured | {"updates": updates, "seconds": seconds}


def measure(run: Path, flags: list[str], core: int) -> dict[str, float]:
    """The held-out loss of an exported model, per character and per token; in a process of its own, on one core."""
    os.sched_setaffinity(0, {core})
    import numpy as np
    import torch
    from accelerate import Accelerator
    from transformers import AutoModelForMaskedLM

    from mlm_dist.batches.loader import validation_batches
    from mlm_dist.batches.masking import Masker
    from mlm_dist.config import MaskingConfig, parse
    from mlm_dist.corpus.tokenizer import loading
    from mlm_dist.evaluation.validation import MASK_SEED, evaluate
    from mlm_dist.model.masked_lm import MaskedLanguageModel
    from mlm_dist.prepare import prepare

    corpus = prepare(parse([*_of_rows(flags), "--rows.mode=chunk"]))
    special = loading.special_tokens(corpus.tokenizer)
    masker = Masker(MaskingConfig(probability=MEASURED), MASK_SEED, special.mask, special.all, len(corpus.tokenizer))
    batches = list(validation_batches(corpus.rows("validation"), masker, 32, 1, 0))
    lengths = np.array(
        [len(word.removeprefix("##")) for word in corpus.tokenizer.convert_ids_to_tokens(range(len(corpus.tokenizer)))]
    )
    num_characters = sum(int(lengths[labels[labels >= 0]].sum()) for labels in (one.labels.numpy() for one in batches))
    model = MaskedLanguageModel(AutoModelForMaskedLM.from_pretrained(run / "model", dtype=torch.float32))
    found = evaluate(Accelerator(cpu=True), model, batches)
    return {
        "per_character": found.loss * found.num_masked / num_characters,
        "per_token": found.loss,
        "accuracy": found.accuracy,
    }


def write(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Keep what there is so far, beside what other sources gave, and other recipes under the same conditions."""
    path: Path = arguments.output
    sources = json.loads(path.read_text("utf-8"))["sources"] if path.is_file() else {}
    conditions = ("model", "length", "vocabulary", "start", "start_work", "work", "lr")
    about = {name: getattr(arguments, name) for name in conditions}
    about["start"] = arguments.start and Path(arguments.start).name
    name = Path(arguments.source).name
    earlier = sources.get(name, {})
    recipes = earlier["recipes"] if {key: earlier.get(key) for key in about} == about else {}
    found_now = {recipe: {"flags": RECIPES[recipe].flags, "seeds": runs} for recipe, runs in found.items() if runs}
    common.write(path, sources=sources | {name: about | {"recipes": recipes | found_now}})


def show(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Print the table; differences are taken seed by seed."""
    table = Table(
        *("recipe", "nats per character", "difference", "updates", "seconds"),
        title=f"{arguments.model}, {arguments.work:.3g} FLOPs each, {arguments.seeds} seeds, {arguments.source}",
    )
    for name, runs in found.items():
        values = [run["per_character"] for run in runs]
        against = [run["per_character"] for run in found.get(BASE, [])]
        pairs = [one - other for one, other in zip(values, against, strict=False)]
        table.add_row(
            name,
            _spread(values),
            _spread(pairs, sign="+") if pairs and name != BASE else "",
            f"{runs[0]['updates']:,.0f}",
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
        )
    say(table)


def _spread(values: list[float], sign: str = "") -> str:
    mean, deviation = common.mean_and_deviation(values)
    return f"{mean:{sign}.4f} ± {deviation:.4f}"


def _of_rows(flags: list[str]) -> list[str]:
    """The flags that rows depend on."""
    groups = ("corpus", "rows", "tokenizer", "model")
    return [flag for flag in flags if flag.removeprefix("--").split(".")[0] in groups]


def _train(flags: list[str], updates: int, run: Path, core: int | None = None) -> None:
    quiet = ["--tracking.trackers=[]", "--validation.every=null", "--checkpoint.every=null", "--export.verify=false"]
    _run("train.py", [*flags, f"--optim.duration={updates} steps", f"--output_dir={run}", *quiet], core)


def _run(job: str, flags: list[str], core: int | None = None) -> None:
    command = [sys.executable, str(ROOT / "mlm_dist" / job), *flags]
    affinity = None if core is None else lambda: os.sched_setaffinity(0, {core})
    ended = subprocess.run(
        command, check=False, env=os.environ | ON_CPU | BF16, capture_output=True, text=True, preexec_fn=affinity
    )
    if ended.returncode:
        raise SystemExit(f"error: {job} {' '.join(flags)} failed: {ended.stderr.strip().splitlines()[-1:]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipes", type=lambda text: text.split(","), default=list(RECIPES), help=", ".join(RECIPES))
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--model", default="2x128", help="LAYERSxHIDDEN, from random weights")
    add("--length", type=int, default=128, help="tokens in a row")
    add("--vocabulary", type=int, default=4096, help="tokens of the tokenizer that is trained")
    add("--work", type=float, default=2e13, help="FLOPs of each run")
    add("--lr", type=float, help="peak rate of the base: 4e-3 with --start, else 3e-3")
    add("--start", help="documents that the model to begin with is trained on first; else weights are random")
    add("--start-work", type=float, default=1e13, help="FLOPs of that training")
    add("--start-lr", type=float, default=3e-3, help="its peak rate")
    add("--seeds", type=int, default=3)
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "recipes.json")
    parser.set_defaults(model_folder=None)
    arguments = parser.parse_args()
    arguments.lr = arguments.lr or (4e-3 if arguments.start else 3e-3)
    arguments.start_work = arguments.start_work if arguments.start else None
    for name in set(arguments.recipes) - set(RECIPES):
        parser.error(f"--recipes: {name} is none of {', '.join(RECIPES)}")
    return arguments


if __name__ == "__main__":
    main()
