"""The runs of a recipe: its flags, its number of steps, training on one core, and its validation loss."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import processes
import validation_losses
import workload
from systems import BF16, ON_CPU

ROOT = Path(__file__).resolve().parent.parent
BATCH = 16
# With dropout, a model this small does not get past unigram frequencies in runs of this length.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Args:
        flags: Flags of `train.py`, beyond those of the baseline.
        masked: Its masking rate, on average over the run.
        lr: Its peak learning rate as a multiple of the baseline's.
    """

    flags: list[str] = field(default_factory=list)
    masked: float = workload.MASKED
    lr: float = 1.0


def train_start(recipe: Recipe, arguments: argparse.Namespace, folder: Path) -> Path:
    """Train the model that all recipes continue from on documents of its own, on all cores."""
    its_own = argparse.Namespace(**vars(arguments) | {"source": arguments.start, "lr": arguments.start_lr})
    _train(flags_of(recipe, its_own), num_steps(recipe, arguments, arguments.start_work), folder / "start")
    return folder / "start" / "model"


def flags_of(recipe: Recipe, arguments: argparse.Namespace) -> list[str]:
    """The flags of `train.py` for a recipe."""
    return [
        *(f"--corpus.source={arguments.source}", f"--corpus.cache_dir={arguments.cache}"),
        *("--corpus.validation_fraction=0.2", f"--rows.max_length={arguments.length}", "--rows.mode=chunk"),
        f"--masking.probability={workload.MASKED}",
        *_model_flags(arguments),
        *(f"--batch.global_size={BATCH}", f"--optim.lr={arguments.lr * recipe.lr}"),
        *recipe.flags,
    ]


def num_steps(recipe: Recipe, arguments: argparse.Namespace, work: float) -> int:
    """The number of steps of a recipe that take `work` FLOPs."""
    shape = workload.shape(arguments.model, arguments.vocabulary)
    per_position = shape.flops_per_token(arguments.length, recipe.masked)
    return round(work / (per_position * BATCH * arguments.length))


def prepare_rows(recipes: list[Recipe], arguments: argparse.Namespace) -> None:
    """Prepare the rows of all recipes, and the rows that each is validated on."""
    wanted = [tuple(_row_flags(flags_of(recipe, arguments))) for recipe in recipes]
    for flags in dict.fromkeys(wanted):  # most recipes have the same rows
        for more in ([], ["--rows.mode=chunk"]):
            _run("prepare.py", [*flags, *more])


def train(recipe: Recipe, seed: int, arguments: argparse.Namespace, run: Path, core: int) -> dict[str, float]:
    """Train a recipe on one core and validate it."""
    steps, flags = num_steps(recipe, arguments, arguments.work), flags_of(recipe, arguments)
    began = time.perf_counter()
    _train([*flags, f"--seed={seed}"], steps, run, core)
    seconds = time.perf_counter() - began
    figures: dict[str, float] = processes.call(validate, run, flags, core, environment=ON_CPU)
    return figures | {"steps": steps, "seconds": seconds}


def validate(run: Path, flags: list[str], core: int) -> dict[str, float]:
    """The validation loss of an exported model, per character and per token; in a process of its own, on one core."""
    os.sched_setaffinity(0, {core})
    import numpy as np

    from mlm_dist.batches.loader import validation_batches

    corpus = workload.prepared([*_row_flags(flags), "--rows.mode=chunk"])
    objective = validation_losses.masked_lm(corpus)
    batches = list(validation_batches(corpus.rows("validation"), objective.validation_corruption, 32))
    tokenizer = corpus.tokenizer
    lengths = np.array(
        [len(token.removeprefix("##")) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    )
    num_characters = sum(int(lengths[labels[labels >= 0]].sum()) for labels in (one.labels.numpy() for one in batches))
    result = validation_losses.validate(objective, validation_losses.load(run / "model"), batches)
    return {
        "per_character": result.loss * result.num_masked / num_characters,
        "per_token": result.loss,
        "accuracy": result.accuracy,
    }


def _model_flags(arguments: argparse.Namespace) -> list[str]:
    if arguments.model_folder is not None:
        return [f"--model.name_or_path={arguments.model_folder}"]
    shape = workload.shape(arguments.model, arguments.vocabulary).overrides | NO_DROPOUT
    return [
        *(f"--tokenizer.train_vocab_size={shape.pop('vocab_size')}", "--model.name_or_path=bert"),
        f"--model.overrides={json.dumps(shape)}",
    ]


def _row_flags(flags: list[str]) -> list[str]:
    """The flags that rows depend on."""
    sections = ("corpus", "rows", "tokenizer", "model")
    return [flag for flag in flags if flag.removeprefix("--").split(".")[0] in sections]


def _train(flags: list[str], steps: int, run: Path, core: int | None = None) -> None:
    quiet = ["--tracking.trackers=[]", "--validation.every=null", "--checkpoint.every=null", "--export.verify=false"]
    _run("train.py", [*flags, f"--optim.duration={steps} steps", f"--output_dir={run}", *quiet], core)


def _run(job: str, flags: list[str], core: int | None = None) -> None:
    command = [sys.executable, str(ROOT / "mlm_dist" / job), *flags]
    affinity = None if core is None else lambda: os.sched_setaffinity(0, {core})
    ended = subprocess.run(
        command, check=False, env=os.environ | ON_CPU | BF16, capture_output=True, text=True, preexec_fn=affinity
    )
    if ended.returncode:
        raise SystemExit(f"error: {job} {' '.join(flags)} failed: {ended.stderr.strip().splitlines()[-1:]}")
