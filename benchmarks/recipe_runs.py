"""The runs of a recipe: its flags, its number of steps, training on one core, and its validation loss."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import processes
import validation_losses
import workload
from systems import BF16, ON_CPU

ROOT = Path(__file__).resolve().parent.parent
BATCH = 16
# With dropout, a model this small does not get past unigram frequencies in runs of this length.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Part:
    """A phase of a recipe.

    Args:
        share: Its share of the compute.
        masked: Fraction of the positions that are predicted.
        settings: What it sets, as a phase of a config.
    """

    share: float
    masked: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Args:
        flags: Flags of `train.py`, beyond those of the baseline.
        masked: Its masking rate, on average over the run.
        lr: Its peak learning rate as a multiple of the baseline's.
        phases: Its phases; empty for one.
        checkpoints: Checkpoints that it saves, evenly spaced.
    """

    flags: list[str] = field(default_factory=list)
    masked: float = workload.MASKED
    lr: float = 1.0
    phases: tuple[Part, ...] = ()
    checkpoints: int = 1

    def to_json(self) -> dict[str, Any]:
        """What it differs from the baseline in, for the results."""
        return {"flags": self.flags, **({"phases": [asdict(part) for part in self.phases]} if self.phases else {})}


def train_start(recipe: Recipe, arguments: argparse.Namespace, folder: Path) -> Path:
    """Train the model that all recipes continue from on documents of its own, on all cores."""
    its_own = argparse.Namespace(**vars(arguments) | {"source": arguments.start, "lr": arguments.start_lr})
    steps = num_steps(recipe.masked, arguments, arguments.start_work)
    _train([*flags_of(recipe, its_own), f"--optim.duration={steps} steps"], folder / "start")
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


def num_steps(masked: float, arguments: argparse.Namespace, work: float) -> int:
    """The number of steps that take `work` FLOPs if this fraction of the positions is predicted."""
    shape = workload.shape(arguments.model, arguments.vocabulary)
    per_position: float = shape.flops_per_token(arguments.length, masked)
    return round(work / float(per_position * BATCH * arguments.length))


def prepare_rows(recipes: list[Recipe], arguments: argparse.Namespace) -> None:
    """Prepare the rows of all recipes, and the rows that each is validated on."""
    wanted = [tuple(_row_flags(flags_of(recipe, arguments))) for recipe in recipes]
    for flags in dict.fromkeys(wanted):  # most recipes have the same rows
        for more in ([], ["--rows.mode=chunk"]):
            _run("prepare.py", [*flags, *more])


def train(recipe: Recipe, seed: int, arguments: argparse.Namespace, run: Path, core: int) -> dict[str, float]:
    """Train a recipe on one core and validate it."""
    flags = flags_of(recipe, arguments)
    parts = recipe.phases or (Part(1.0, recipe.masked, {}),)
    counts = [num_steps(part.masked, arguments, part.share * arguments.work) for part in parts]
    durations = [f"{count} steps" for count in counts]
    length = f"--optim.duration={durations[0]}"
    if recipe.phases:
        named = [
            {"name": f"part_{i}", "duration": duration} | part.settings
            for i, (duration, part) in enumerate(zip(durations, parts, strict=True))
        ]
        length = f"--phases={json.dumps(named)}"
    steps = sum(counts)
    more = [length, f"--seed={seed}", f"--checkpoint.every={max(1, steps // recipe.checkpoints)}"]
    began = time.perf_counter()
    _train([*flags, *more], run, core)
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


def _train(flags: list[str], run: Path, core: int | None = None) -> None:
    quiet = ["--tracking.trackers=[]", "--validation.every=null", "--export.verify=false"]
    _run("train.py", [*quiet, *flags, f"--output_dir={run}"], core)


def _run(job: str, flags: list[str], core: int | None = None) -> None:
    command = [sys.executable, str(ROOT / "mlm_dist" / job), *flags]
    affinity = None if core is None else lambda: os.sched_setaffinity(0, {core})
    ended = subprocess.run(
        command, check=False, env=os.environ | ON_CPU | BF16, capture_output=True, text=True, preexec_fn=affinity
    )
    if ended.returncode:
        raise SystemExit(f"error: {job} {' '.join(flags)} failed: {ended.stderr.strip().splitlines()[-1:]}")
