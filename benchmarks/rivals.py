"""Two recipes on the same documents: the notebook's and this project's, and one measure of what they lead to."""

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

import workload
from contest import Finished

LENGTH = 128
MASK_DRAWS = 2  # times the first chunks are measured, each with other masks
WHOLE_ROWS = 128  # chunks from all over the held-out documents


@dataclass(frozen=True)
class Ground:
    """What both recipes stand on.

    Args:
        start: Folder of the weights and the tokenizer both begin with.
        is_checkpoint: Whether these weights were trained.
        flags: Make `prepare.py` and `train.py` find the documents, and the split of them.
        num_rows: Of training and held-out rows, {mode: (training, held out)}.
    """

    start: Path
    is_checkpoint: bool
    flags: list[str]
    num_rows: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Recipe:
    """How this project is run.

    Args:
        keys: Flags of `train.py`.
        every: Seconds between two looks at the held-out loss; None for the start and the end only.
        seconds: When to stop.
        tokens: Or after how many tokens.
    """

    keys: list[str]
    every: float | None = None
    seconds: float | None = None
    tokens: int | None = None


class Point(NamedTuple):
    """Held-out losses after some seconds of training."""

    seconds: float
    losses: dict[str, float]


class Clock:
    """Seconds of training; it stands still while something else is done."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """What has passed."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def stop(self) -> float:
        """Stand still, and say what has passed."""
        self._seconds, self._since = self.seconds, None
        return self._seconds

    def go(self) -> None:
        """Run."""
        self._since = time.perf_counter()


def ground(model: str, source: str, vocab_size: int, cache: str, start: Path) -> Ground:
    """Prepare the documents both ways and save the weights to begin with."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

    is_checkpoint = os.path.isdir(model)
    # A fifth is held out, so that the loss on the first chunks is one over thousands of tokens.
    flags = [
        *(f"--corpus.source={source}", f"--corpus.cache_dir={cache}", "--corpus.min_chars=201"),
        *("--corpus.validation_fraction=0.2", f"--rows.max_length={LENGTH}"),
    ]
    torch.manual_seed(0)
    if is_checkpoint:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32)
    else:
        tokenizer = _prepared([*flags, f"--tokenizer.train_vocab_size={vocab_size}"]).tokenizer
        network = BertForMaskedLM(BertConfig(**workload.shape(model, len(tokenizer)).overrides))
    network.save_pretrained(start)
    tokenizer.save_pretrained(start)
    flags.append(f"--model.name_or_path={start}")
    rows = {}
    for mode in ("truncate", "pack"):
        found = _prepared([*flags, f"--rows.mode={mode}"]).manifest["rows"]
        rows[mode] = (found["train"], found["validation"])
    return Ground(start, is_checkpoint, flags, rows)


def notebook(ground: Ground, epochs: float, seed: int) -> Point:
    """The notebook's recipe to its end."""
    from datasets import load_from_disk
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    clock = Clock()

    class Clocked(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.go()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    def as_tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        sizes = [sum(lengths) for lengths in batch["lengths"]]
        masks = [[1] * size + [0] * (LENGTH - size) for size in sizes]
        return {"attention_mask": masks, "token_type_ids": [[0] * LENGTH for _ in sizes]}

    measure = _measure(ground)
    rows = load_from_disk(str(_prepared([*ground.flags, "--rows.mode=truncate"]).folder / "train"))
    rows = rows.map(as_tokenized, batched=True, remove_columns="lengths", keep_in_memory=True)
    model = AutoModelForMaskedLM.from_pretrained(ground.start)
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
        collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(ground.start), mlm_probability=0.15)
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[Clocked()]).train()
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    return Point(clock.seconds, measure(weights))


def ours(ground: Ground, recipe: Recipe) -> list[Point]:
    """`train.py` as it is, but where it validates, the measure of both recipes takes the place of its own."""
    import numpy as np

    from mlm_dist import train
    from mlm_dist.config import parse
    from mlm_dist.engine import distributed
    from mlm_dist.evaluation.validation import Validation

    measure = _measure(ground)
    clock = Clock()
    curve: list[Point] = []
    calls = [0.0]  # when it would have validated

    def look(held_out: Any, accelerator: Any, model: Any, *_: Any, **__: Any) -> Validation:
        now = clock.stop()
        calls.append(now)
        until_next = 1.5 * (now - calls[-2])
        # Without a time, the first call is before the first update and the second after the last.
        is_last = bool(curve) and (recipe.seconds is None or now + until_next > recipe.seconds)
        if not curve or is_last or recipe.every is None or now >= curve[-1].seconds + recipe.every:
            found = distributed.full_parameters(accelerator, accelerator.unwrap_model(model))
            curve.append(Point(now, measure(dict(found))))
        if is_last:
            raise Finished
        clock.go()
        return Validation(curve[-1].losses["whole"], 0.0, 0)

    keys = [*ground.flags, *recipe.keys]
    if recipe.tokens is not None:
        corpus, size = _prepared(keys), parse(keys).batch.global_size
        rows = corpus.rows("train")
        per_row = rows.chunks(np.arange(len(rows)))[0].sum() / len(rows)
        keys.append(f"--optim.duration={max(1, round(recipe.tokens / (per_row * size)))} steps")
    with (
        tempfile.TemporaryDirectory() as run,
        patch.object(train.HeldOut, "evaluate", look),
        contextlib.suppress(Finished),
    ):
        train.main(parse([*keys, f"--output_dir={run}", "--checkpoint.every=null"]))
    return curve


def _prepared(flags: list[str]) -> Any:
    from mlm_dist.config import parse
    from mlm_dist.prepare import prepare

    return prepare(parse(flags))


def _measure(ground: Ground) -> Callable[[dict[str, Any]], dict[str, float]]:
    """{weights by name: held-out losses}: the one measure, in fp32, with masks that are always the same."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoModelForMaskedLM

    from mlm_dist.batches.loader import validation_batches
    from mlm_dist.batches.masking import Masker
    from mlm_dist.config import MaskingConfig
    from mlm_dist.corpus.tokenizer import loading
    from mlm_dist.evaluation.validation import evaluate
    from mlm_dist.model.masked_lm import MaskedLanguageModel

    first = _prepared([*ground.flags, "--rows.mode=truncate"])
    whole = _prepared([*ground.flags, "--rows.mode=chunk"]).rows("validation")
    special = loading.special_tokens(first.tokenizer)

    def masker(seed: int) -> Masker:
        return Masker(MaskingConfig(), seed, special.mask, special.all, len(first.tokenizer))

    chunks = list(validation_batches(whole, masker(0), 16, 1, 0))
    stride = max(1, len(chunks) * 16 // WHOLE_ROWS)
    sets = {
        "first": [
            batch
            for draw in range(MASK_DRAWS)
            for batch in validation_batches(first.rows("validation"), masker(draw), 16, 1, 0)
        ],
        "whole": chunks[::stride],
    }
    core = MaskedLanguageModel(AutoModelForMaskedLM.from_pretrained(ground.start, dtype=torch.float32))
    names = dict(core.named_parameters())

    def measure(weights: dict[str, Any]) -> dict[str, float]:
        assert weights.keys() == names.keys(), weights.keys() ^ names.keys()
        with torch.no_grad():
            for name, value in weights.items():
                names[name].copy_(value)
        accelerator = Accelerator()  # shares the state of the one that trains, if there is one
        return {name: evaluate(accelerator, core, batches).loss for name, batches in sets.items()}

    return measure
