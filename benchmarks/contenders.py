"""Who competes in throughput: this project's job, Trainer twice, and a plain Accelerate loop."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from contest import Pace
from workload import MASKED, Shape

# All compute on the CPU, whatever else the machine has; benchmarks/gpu.py is for GPUs.
ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
BF16 = {"ACCELERATE_MIXED_PRECISION": "bf16"}


@dataclass(frozen=True)
class Task:
    """What all contenders of a case have in common.

    Args:
        flags: Make `train.py` find the rows.
        corpus: The folder of the prepared corpus, where the others find them.
        shape: The model.
        batch: Rows per update.
        keys: Further flags for `train.py`, to compare settings of this project.
        on_gpu: Whether Trainer may use a GPU.
    """

    flags: list[str]
    corpus: Path
    shape: Shape
    batch: int
    keys: list[str] = field(default_factory=list)
    on_gpu: bool = False


def train_with(
    boundary: Callable[[], None], flags: list[str], change: Callable[[Any], Any] = lambda micro: micro
) -> None:
    """`train.py` itself, with a call between updates, where it asks for the next batch; an exception there ends it.

    Args:
        boundary: The call.
        flags: Of `train.py`.
        change: Makes of each micro-batch what is trained on.
    """
    from mlm_dist import train
    from mlm_dist.batches.loader import TrainingBatches
    from mlm_dist.config import parse

    class WatchedBatches(TrainingBatches):
        def window(self, step: int) -> Any:
            boundary()
            return [change(micro) for micro in super().window(step)]

    with patch.object(train, "TrainingBatches", WatchedBatches):
        train.main(parse(flags))


def mlm_dist(pace: Pace, task: Task) -> None:
    """This project."""
    with tempfile.TemporaryDirectory() as run:
        flags = [
            f"--output_dir={run}",
            "--model.name_or_path=bert",
            f"--model.overrides={json.dumps(task.shape.overrides)}",
            f"--batch.global_size={task.batch}",
            "--optim.duration=1000000 steps",
            "--validation.every=null",
            "--checkpoint.every=null",
        ]
        train_with(pace.boundary, [*task.flags, *flags, *task.keys])


@dataclass(frozen=True)
class Tuning:
    """How a Trainer is set up.

    Args:
        bf16: Autocast.
        fp16: Autocast with a loss scale, for GPUs without bf16.
        micro_size: Rows per forward pass; None for the whole batch.
        num_workers: Of the DataLoader.
        compile: torch.compile.
        lean: Rows come without attention mask and token types, and with the special tokens marked beforehand.
    """

    bf16: bool = False
    fp16: bool = False
    micro_size: int | None = None
    num_workers: int = 0
    compile: bool = False
    lean: bool = False

    def __str__(self) -> str:
        parts = ["bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"]
        parts += ["no attention mask"] if self.lean else []
        parts += [f"micro-batch {self.micro_size}"] if self.micro_size else []
        parts += [f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''}"] if self.num_workers else []
        parts += ["torch_compile"] if self.compile else []
        return ", ".join(parts)


# As the notebook sets it up: defaults, and what its tokenizer returns.
NOTEBOOK = Tuning()
# Where the search for the fastest settings begins. Fused AdamW is Trainer's default by now.
TUNED = Tuning(bf16=True, lean=True, num_workers=1)


def trainer(pace: Pace, task: Task, tuning: Tuning) -> None:
    """`transformers.Trainer` with DataCollatorForLanguageModeling."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    class Paced(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pace.boundary()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.boundary()

    micro = tuning.micro_size or task.batch
    tokenizer = tokenizer_of(task.corpus)
    if tuning.lean:
        tokenizer.model_input_names = ["input_ids"]  # else its padding would put the mask back
    with tempfile.TemporaryDirectory() as run:
        arguments = TrainingArguments(
            output_dir=run,
            max_steps=1_000_000,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=task.batch // micro,
            bf16=tuning.bf16,
            fp16=tuning.fp16,
            optim="adamw_torch_fused",
            dataloader_num_workers=tuning.num_workers,
            dataloader_persistent_workers=tuning.num_workers > 0,
            torch_compile=tuning.compile,
            save_strategy="no",
            report_to="none",
            use_cpu=not task.on_gpu,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
        rows = rows_of(task.corpus, tokenizer, lean=tuning.lean)
        model = _model(task)
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[Paced()]).train()


def plain(pace: Pace, task: Task) -> None:
    """The shortest Accelerate loop one would write: bf16, the model's dense loss, a DataLoader with the collator."""
    import torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader
    from transformers import DataCollatorForLanguageModeling

    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    tokenizer = tokenizer_of(task.corpus)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    rows = rows_of(task.corpus, tokenizer, lean=False)
    loader = DataLoader(rows, task.batch, shuffle=True, drop_last=True, collate_fn=collator)
    model = _model(task)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=5e-5), loader)
    model.train()
    while True:
        for batch in loader:
            pace.boundary()
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def tokenizer_of(corpus: Path) -> Any:
    """The tokenizer of a prepared corpus."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(corpus / "tokenizer")


def rows_of(corpus: Path, tokenizer: Any, *, lean: bool) -> Any:
    """The same rows as a `datasets` table; lean, or with all that a tokenizer returns when it pads to a length."""
    from datasets import load_from_disk

    rows = load_from_disk(str(corpus / "train"))

    def as_tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        width = len(batch["input_ids"][0])
        masks = [[1] * sum(lengths) + [0] * (width - sum(lengths)) for lengths in batch["lengths"]]
        return {"attention_mask": masks, "token_type_ids": [[0] * width for _ in masks]}

    def marked(batch: dict[str, Any]) -> dict[str, Any]:
        special = set(tokenizer.all_special_ids)
        return {"special_tokens_mask": [[int(token in special) for token in row] for row in batch["input_ids"]]}

    # In memory, so that nothing is left beside the rows.
    return rows.map(marked if lean else as_tokenized, batched=True, remove_columns="lengths", keep_in_memory=True)


def _model(task: Task) -> Any:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**task.shape.overrides))
