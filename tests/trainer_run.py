"""transformers.Trainer with the notebook's recipe, in a process of its own, as a reference for tests.

    python tests/trainer_run.py OUT.json SEEDS FLAGS...

FLAGS are those of `train.py`: they give the rows, initial weights, batch, learning rate and duration. SEEDS, separated
by commas, are Trainer's seeds for order, masks and dropout; with `ours`, the rows come in the order and with the masks
of `train.py`. OUT.json gets, for each seed, the loss of every step and the validation loss every `validation.every`
steps.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.loader import Stream, Target, TrainingBatches, validation_batches
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.batches.mixture import mixed_order
from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import Config, Duration, parse
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.evaluation.validation_set import ChosenRows, evenly_spaced
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.resolve import corpus_spec


class InOrder(Trainer):  # type: ignore[misc]
    """A Trainer that takes its rows in their order."""

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        assert self.train_dataset is not None
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Losses(TrainerCallback):  # type: ignore[misc]
    """Keeps the losses."""

    def __init__(self, validation: Sequence[MicroBatch], every: int | None) -> None:
        self._validation, self._every = validation, every
        self.losses: list[float] = []
        self.validation_losses: list[float] = []

    def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])
            if self._every is not None and state.global_step % self._every == 0:
                self.validation_losses.append(validation_loss(model, self._validation))


@torch.no_grad()
def validation_loss(model: Any, batches: Sequence[MicroBatch]) -> float:
    """The validation loss, by all logits of the plain model."""
    model.eval()
    loss_sum = torch.zeros(())
    for batch in batches:
        scores = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)
        loss_sum += F.cross_entropy(scores[batch.positions], batch.labels, reduction="sum")
    model.train()
    return float(loss_sum) / sum(batch.num_predicted for batch in batches)


def examples(config: Config, corpus: PreparedCorpus, masker: Masker, steps: int) -> list[dict[str, torch.Tensor]]:
    """The rows of `train.py`, masked, step by step."""
    size = config.batch.global_size
    rows = corpus.rows("train")
    batch = spread(dataclasses.replace(config.batch, micro_size=size), config.rows.max_length, 1)
    order, ramp = mixed_order({"": range(len(rows))}, {}, config.seed), Ramp(batch, config.rows.max_length)
    stream = Stream(rows, order, steps * size)
    batches = TrainingBatches(stream, masker, batch, ramp, Target())
    found = []
    for step in range(steps):
        (micro,) = batches[step]
        labels = torch.full_like(micro.input_ids, -100).flatten()
        labels[micro.positions] = micro.labels
        mask = torch.ones_like(micro.input_ids) if micro.attention_mask is None else micro.attention_mask
        columns = {"input_ids": micro.input_ids, "attention_mask": mask, "labels": labels.view_as(micro.input_ids)}
        found += [{name: column[i] for name, column in columns.items()} for i in range(size)]
    batches.close()
    return found


def rows(corpus: PreparedCorpus) -> Any:
    """The training rows as the notebook's tokenizer returns them."""
    from datasets import load_from_disk

    def as_tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        width = len(batch["input_ids"][0])
        masks = [[1] * sum(lengths) + [0] * (width - sum(lengths)) for lengths in batch["lengths"]]
        return {"attention_mask": masks, "token_type_ids": [[0] * width for _ in masks]}

    found = load_from_disk(str(corpus.folder / "train"))
    return found.map(as_tokenized, batched=True, remove_columns="lengths", keep_in_memory=True)


def trained(config: Config, corpus: PreparedCorpus, seed: str) -> dict[str, list[float]]:
    """The losses of one run."""
    steps, size = int(Duration.parse(config.optim.duration).value), config.batch.global_size
    assert config.optim.lr is not None
    special = loading.special_tokens(corpus.tokenizer)
    masker = Masker(config.masking, config.seed, special.mask, special.all, len(corpus.tokenizer))
    corruption = MaskedLM(masker).validation_corruption
    whole = corpus.rows("validation")
    some = ChosenRows(whole, evenly_spaced([range(len(whole))], config.validation.max_rows or len(whole)))
    kept = Losses(list(validation_batches(some, corruption, size)), config.validation.every)
    with tempfile.TemporaryDirectory() as folder:
        # All else is the default of Trainer, as in the notebook.
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=size,
            learning_rate=config.optim.lr,
            seed=0 if seed == "ours" else int(seed),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        model = AutoModelForMaskedLM.from_pretrained(config.model.name_or_path, **config.model.overrides)
        if seed == "ours":
            kind, table, collator = InOrder, examples(config, corpus, masker, steps), default_data_collator
        else:
            kind, table = Trainer, rows(corpus)
            collator = DataCollatorForLanguageModeling(corpus.tokenizer, mlm_probability=config.masking.probability)
        kind(model, arguments, data_collator=collator, train_dataset=table, callbacks=[kept]).train()
    return {"losses": kept.losses, "validation_losses": kept.validation_losses}


def main(out: str, seeds: str, *flags: str) -> None:
    """Train with every seed."""
    config = parse(list(flags))
    corpus = prepare(corpus_spec(config), 0, 1)
    Path(out).write_text(json.dumps([trained(config, corpus, seed) for seed in seeds.split(",")]), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
