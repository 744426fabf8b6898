"""Validation losses over the seconds of training, by the notebook's recipe and by this project's."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import validation_losses
import workload
from processes import NoMoreStepsError

LENGTH = 128
MASK_DRAWS = 2  # times that the first chunks are measured, each time with other masks
WHOLE_ROWS = 128  # chunks of whole validation documents


@dataclass(frozen=True)
class Setup:
    """What both recipes begin with.

    Args:
        start: Folder of the initial weights and the tokenizer.
        is_checkpoint: Whether these weights are pretrained.
        flags: Flags of `prepare.py` and `train.py` that select the documents and their split.
        num_rows: {row mode: (training rows, validation rows)}.
    """

    start: Path
    is_checkpoint: bool
    flags: list[str]
    num_rows: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of this project.

    Args:
        flags: Flags of `train.py`.
        every: Seconds between two validations; None validates at the start and the end only.
        seconds: Length of the run in seconds.
        tokens: Or its length in tokens.
    """

    flags: list[str]
    every: float | None = None
    seconds: float | None = None
    tokens: int | None = None


class Point(NamedTuple):
    """Validation losses after some seconds of training."""

    seconds: float
    losses: dict[str, float]


class Stopwatch:
    """Seconds of training, without the time in which it is stopped."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def stop(self) -> float:
        """Stop, and return the seconds so far."""
        self._seconds, self._since = self.seconds, None
        return self._seconds

    def start(self) -> None:
        """Start, or continue."""
        self._since = time.perf_counter()


def setup(model: str, source: str, vocab_size: int, cache: str, start: Path) -> Setup:
    """Prepare the documents for both recipes and save the initial weights."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

    is_checkpoint = os.path.isdir(model)
    # A fifth for validation, so that the loss on the first chunks is a mean over thousands of tokens.
    flags = [
        *(f"--corpus.source={source}", f"--corpus.cache_dir={cache}", "--corpus.min_chars=201"),
        *("--corpus.validation_fraction=0.2", f"--rows.max_length={LENGTH}"),
        f"--masking.probability={workload.MASKED}",
    ]
    torch.manual_seed(0)
    if is_checkpoint:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32)
    else:
        tokenizer = workload.prepared([*flags, f"--tokenizer.train_vocab_size={vocab_size}"]).tokenizer
        network = BertForMaskedLM(BertConfig(**workload.shape(model, len(tokenizer)).overrides))
    network.save_pretrained(start)
    tokenizer.save_pretrained(start)
    flags.append(f"--model.name_or_path={start}")
    num_rows = {}
    for mode in ("truncate", "pack"):
        count = workload.prepared([*flags, f"--rows.mode={mode}"]).manifest["rows"]
        num_rows[mode] = (count["train"], count["validation"])
    return Setup(start, is_checkpoint, flags, num_rows)


def notebook(setup: Setup, epochs: float, seed: int) -> Point:
    """Run the notebook's recipe to its end."""
    from datasets import load_from_disk
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    stopwatch = Stopwatch()

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            stopwatch.stop()

    def as_tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        sizes = [sum(lengths) for lengths in batch["lengths"]]
        masks = [[1] * size + [0] * (LENGTH - size) for size in sizes]
        return {"attention_mask": masks, "token_type_ids": [[0] * LENGTH for _ in sizes]}

    measure = _measure(setup)
    rows = load_from_disk(str(workload.prepared([*setup.flags, "--rows.mode=truncate"]).folder / "train"))
    rows = rows.map(as_tokenized, batched=True, remove_columns="lengths", keep_in_memory=True)
    model = AutoModelForMaskedLM.from_pretrained(setup.start)
    with tempfile.TemporaryDirectory() as run:
        arguments = TrainingArguments(
            output_dir=run,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=seed,
        )
        collator = DataCollatorForLanguageModeling(
            AutoTokenizer.from_pretrained(setup.start), mlm_probability=workload.MASKED
        )
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[Timed()]).train()
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    return Point(stopwatch.seconds, measure(weights))


def mlm_dist(setup: Setup, settings: RunSettings) -> list[Point]:
    """Run `train.py`; the validation of both recipes replaces its own."""
    import numpy as np

    from mlm_dist import train
    from mlm_dist.config import parse
    from mlm_dist.evaluation.validation_set import ValidationSet
    from mlm_dist.objectives.figures import Validation

    measure = _measure(setup)
    stopwatch = Stopwatch()
    curve: list[Point] = []
    calls = [0.0]  # seconds at which it asked for a validation

    def evaluate(validation_set: Any, engine: Any, *_: Any, **__: Any) -> Validation:
        now = stopwatch.stop()
        calls.append(now)
        until_next = 1.5 * (now - calls[-2])
        # Without a limit in seconds, the first call is before the first step and the second after the last.
        is_last = bool(curve) and (settings.seconds is None or now + until_next > settings.seconds)
        if not curve or is_last or settings.every is None or now >= curve[-1].seconds + settings.every:
            curve.append(Point(now, measure(dict(engine.parameters()))))
        if is_last:
            raise NoMoreStepsError
        stopwatch.start()
        return Validation(curve[-1].losses["whole"], 0.0, 0)

    flags = [*setup.flags, *settings.flags]
    if settings.tokens is not None:
        corpus, size = workload.prepared(flags), parse(flags).batch.global_size
        rows = corpus.rows("train")
        per_row = rows.chunks(np.arange(len(rows)))[0].sum() / len(rows)
        flags.append(f"--optim.duration={max(1, round(settings.tokens / (per_row * size)))} steps")
    with (
        tempfile.TemporaryDirectory() as run,
        patch.object(ValidationSet, "evaluate", evaluate),
        contextlib.suppress(NoMoreStepsError),
    ):
        train.run(parse([*flags, f"--output_dir={run}", "--checkpoint.every=null"]))
    return curve


def _measure(setup: Setup) -> Callable[[dict[str, Any]], dict[str, float]]:
    """A function from {name: weights} to {part of the validation documents: loss}."""
    import torch

    from mlm_dist.batches.loader import validation_batches

    first = workload.prepared([*setup.flags, "--rows.mode=truncate"])
    whole = workload.prepared([*setup.flags, "--rows.mode=chunk"]).rows("validation")
    objectives = [validation_losses.masked_lm(first, seed) for seed in range(MASK_DRAWS)]
    chunks = list(validation_batches(whole, objectives[0].corruption, 16))
    parts = {
        "first": [
            batch
            for objective in objectives
            for batch in validation_batches(first.rows("validation"), objective.corruption, 16)
        ],
        "whole": chunks[:: max(1, len(chunks) * 16 // WHOLE_ROWS)],
    }
    module = validation_losses.load(setup.start)
    names = dict(module.named_parameters())

    def measure(weights: dict[str, Any]) -> dict[str, float]:
        assert weights.keys() == names.keys(), weights.keys() ^ names.keys()
        with torch.no_grad():
            for name, value in weights.items():
                names[name].copy_(value)
        return {name: validation_losses.validate(objectives[0], module, part).loss for name, part in parts.items()}

    return measure
