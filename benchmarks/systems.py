"""The systems that are compared: train.py of this project, Trainer, and a plain Accelerate loop."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from processes import StepControl
from workload import MASKED, Shape

# On the CPU, also if the machine has a GPU; benchmarks/gpu.py is for GPUs.
ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
BF16 = {"ACCELERATE_MIXED_PRECISION": "bf16"}


@dataclass(frozen=True)
class Job:
    """The work of all systems in a case.

    Args:
        corpus_flags: Flags of `train.py` that select the rows.
        corpus: Folder of the prepared corpus, for the other systems.
        shape: The model.
        batch: Rows per step.
        flags: Further flags of `train.py`, to compare its settings.
        on_gpu: Whether Trainer may use a GPU.
    """

    corpus_flags: list[str]
    corpus: Path
    shape: Shape
    batch: int
    flags: Sequence[str] = ()
    on_gpu: bool = False


def train_with(
    before_step: Callable[[], None], flags: list[str], change: Callable[[Any], Any] = lambda micro_batch: micro_batch
) -> None:
    """Run `train.py` with a call before each step, when it asks for the batch; an exception in the call ends it.

    Args:
        before_step: The call.
        flags: Flags of `train.py`.
        change: Changes each micro-batch before training on it.
    """
    from mlm_dist import train
    from mlm_dist.batches.loader import TrainingBatches
    from mlm_dist.config import parse
    from mlm_dist.terminal.console import show_log

    take = TrainingBatches.__getitem__

    def observed(batches: TrainingBatches, step: int) -> list[Any]:
        before_step()
        return [change(micro_batch) for micro_batch in take(batches, step)]

    show_log()
    with patch.object(TrainingBatches, "__getitem__", observed):
        train.run(parse(flags))


def mlm_dist(control: StepControl, job: Job) -> None:
    """This project."""
    with tempfile.TemporaryDirectory() as run:
        flags = [
            f"--output_dir={run}",
            "--model.name_or_path=bert",
            f"--model.overrides={json.dumps(job.shape.overrides)}",
            f"--batch.global_size={job.batch}",
            f"--masking.probability={MASKED}",
            "--optim.duration=1000000 steps",
            "--validation.every=null",
            "--checkpoint.every=null",
        ]
        train_with(control.before_step, [*job.corpus_flags, *flags, *job.flags])


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a Trainer.

    Args:
        bf16: Autocast.
        fp16: Autocast with a loss scale, for GPUs without bf16.
        micro_size: Rows per forward pass; None for the whole batch.
        num_workers: Workers of the DataLoader.
        compile: torch.compile.
        lean: Rows without attention mask and token types, and with special tokens marked beforehand.
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


# As in the notebook: defaults, and rows with everything that its tokenizer returns.
NOTEBOOK = TrainerSettings()
# Where the search for the fastest settings begins. Fused AdamW is Trainer's default in transformers 5.
TUNED = TrainerSettings(bf16=True, lean=True, num_workers=1)


def trainer(control: StepControl, job: Job, settings: TrainerSettings) -> None:
    """`transformers.Trainer` with DataCollatorForLanguageModeling."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    micro_size = settings.micro_size or job.batch
    tokenizer = tokenizer_of(job.corpus)
    if settings.lean:
        tokenizer.model_input_names = ["input_ids"]  # otherwise its padding would add the mask
    with tempfile.TemporaryDirectory() as run:
        arguments = TrainingArguments(
            output_dir=run,
            max_steps=1_000_000,
            per_device_train_batch_size=micro_size,
            gradient_accumulation_steps=job.batch // micro_size,
            bf16=settings.bf16,
            fp16=settings.fp16,
            optim="adamw_torch_fused",
            dataloader_num_workers=settings.num_workers,
            dataloader_persistent_workers=settings.num_workers > 0,
            torch_compile=settings.compile,
            save_strategy="no",
            report_to="none",
            use_cpu=not job.on_gpu,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
        rows = rows_of(job.corpus, tokenizer, lean=settings.lean)
        model = _model(job)
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[before_steps(control)]).train()


def before_steps(control: StepControl) -> Any:
    """A callback with which a Trainer waits for the control before each of its steps."""
    from transformers import TrainerCallback

    class BeforeStep(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            control.before_step()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            control.before_step()

    return BeforeStep()


def plain(control: StepControl, job: Job) -> None:
    """The shortest Accelerate loop: bf16, the model's dense loss, a DataLoader with the collator."""
    import torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader
    from transformers import DataCollatorForLanguageModeling

    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    tokenizer = tokenizer_of(job.corpus)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    rows = rows_of(job.corpus, tokenizer, lean=False)
    loader = DataLoader(rows, job.batch, shuffle=True, drop_last=True, collate_fn=collator)
    model = _model(job)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=5e-5), loader)
    model.train()
    while True:
        for batch in loader:
            control.before_step()
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def tokenizer_of(corpus: Path) -> Any:
    """The tokenizer of a prepared corpus."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(corpus / "tokenizer")


def rows_of(corpus: Path, tokenizer: Any, *, lean: bool) -> Any:
    """The training rows as a `datasets` table: lean, or with everything a tokenizer returns when it pads."""
    from datasets import load_from_disk

    rows = load_from_disk(str(corpus / "train"))

    def as_tokenized(batch: dict[str, Any]) -> dict[str, Any]:
        width = len(batch["input_ids"][0])
        masks = [[1] * sum(lengths) + [0] * (width - sum(lengths)) for lengths in batch["lengths"]]
        return {"attention_mask": masks, "token_type_ids": [[0] * width for _ in masks]}

    def marked(batch: dict[str, Any]) -> dict[str, Any]:
        special = set(tokenizer.all_special_ids)
        return {"special_tokens_mask": [[int(token in special) for token in row] for row in batch["input_ids"]]}

    # In memory, so that no file is written beside the rows.
    return rows.map(marked if lean else as_tokenized, batched=True, remove_columns="lengths", keep_in_memory=True)


def _model(job: Job) -> Any:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**job.shape.overrides))
