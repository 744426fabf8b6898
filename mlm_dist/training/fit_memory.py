"""Finding out before the first update that a micro-batch is too large, while nothing is lost and nobody waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size

from mlm_dist import faults
from mlm_dist.batches import shapes
from mlm_dist.batches.global_batch import BatchPlan
from mlm_dist.batches.loader import MicroBatch, assemble
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.shapes import Rows
from mlm_dist.engine import distributed
from mlm_dist.errors import ConfigError, TrainingError, reason
from mlm_dist.model.masked_lm import MaskedLanguageModel

# What libraries below torch say instead of raising its error.
_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def fit(
    accelerator: Accelerator,
    core: MaskedLanguageModel,
    plan: BatchPlan,
    rows: Rows,
    masker: Masker,
    say: Callable[[str], None],
) -> BatchPlan:
    """The batch plan that every process has the memory for; a collective, called before `distributed.prepare`.

    One micro-batch goes forward and backward, with as much memory set aside as the optimizer will take. Where that is
    too much for any process, all halve the micro-batch and double the accumulation, which leaves the loss curve as it
    is. The trial comes before any process depends on another: a process that runs out of memory within an update
    leaves the others waiting for its gradients. Sharded models are not tried, because whole they may not fit; they end
    in the message of `explained`.

    Raises:
        ConfigError: Not even one row fits.
    """
    plan = plan.with_micro_size(int(_least(accelerator, plan.micro_size)))  # GPUs of different sizes meet here
    while not distributed.is_sharded(accelerator):
        samples = np.arange(plan.micro_size) % len(rows)
        # As many positions go through the head as in the fullest micro-batch of a run.
        fullest = shapes.fixed(masker.config, rows, plan.micro_size)
        batch = assemble(rows, masker, np.zeros_like(samples), samples, plan.micro_size, filled_to=fullest)
        if _least(accelerator, _fits(accelerator, core, batch)):
            break
        if plan.micro_size == 1:
            raise ConfigError(
                "batch.micro_size: not even one row fits the memory; lower rows.max_length, name a smaller model, or "
                "shard it with configs/accelerate/zero3.yaml"
            )
        smaller = plan.halved()
        say(f"out of memory with {plan.micro_size} rows per forward pass; going on with {smaller.describe()}")
        plan = smaller
    distributed.set_window(accelerator, plan)
    return plan


@contextlib.contextmanager
def explained(plan: BatchPlan) -> Iterator[None]:
    """Where memory runs out inside, say what to do.

    Raises:
        TrainingError: Instead of the library's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        smaller = plan.halved().micro_size if plan.micro_size > 1 else None
        remedy = "shard the model with zero3" if smaller is None else f"run again with --batch.micro_size {smaller}"
        raise TrainingError(
            f"batch.micro_size: out of memory with {plan.micro_size} rows at once ({reason(error)}); {remedy}: "
            "it goes on from the last checkpoint, and the loss curve stays the same"
        ) from error


def _fits(accelerator: Accelerator, core: MaskedLanguageModel, batch: MicroBatch) -> bool:
    device = accelerator.device
    fits = True
    try:
        core.to(device)
        later = core.num_parameters * 8  # two moments, the most that an optimizer keeps
        reserve = torch.empty(later, dtype=torch.uint8, device=device)
        if faults.planned("memory", len(batch.input_ids), accelerator.process_index):
            reserve = torch.empty(1 << 60, dtype=torch.uint8, device=device)
        with accelerator.autocast():
            loss = core(*batch.to(device).inputs).loss_sum
        loss.backward()
        del loss, reserve
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        fits = False
    core.zero_grad(set_to_none=True)
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    return fits


def _is_out_of_memory(error: RuntimeError) -> bool:
    return should_reduce_batch_size(error) or any(said in str(error) for said in _OUT_OF_MEMORY)


def _least(accelerator: Accelerator, value: float) -> float:
    """The smallest value of any process; a collective."""
    if accelerator.num_processes == 1:
        return value
    values = accelerator.gather(torch.tensor([float(value)], device=accelerator.device))
    return float(values.min())
