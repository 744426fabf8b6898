"""One update: the loss is summed over the whole global batch and divided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist import faults, hashing
from mlm_dist.batches.loader import MicroBatch
from mlm_dist.engine import distributed


@dataclass(frozen=True)
class StepResult:
    """What an update did; tensors, so that nothing waits for the device until a line is due.

    Args:
        loss_sum: Nats over this process's predicted tokens.
        num_masked: Predicted tokens of the global batch.
        num_tokens: Tokens of the global batch that are not padding.
        grad_norm: Norm of the global batch's mean gradient, before clipping.
        skipped: 1 if the update was left out because a number was not finite, else 0.
        stop: Over 0 if any process was asked to stop before this update.
        milliseconds: What the main process's clock said before this update.
    """

    loss_sum: torch.Tensor
    num_masked: torch.Tensor
    num_tokens: torch.Tensor
    grad_norm: torch.Tensor
    skipped: torch.Tensor
    stop: torch.Tensor
    milliseconds: torch.Tensor


def reseed(seed: int, step: int, rank: int) -> None:
    """Make the dropout of an update a function of (seed, step, rank)."""
    torch.manual_seed(int(hashing.key(seed, step, rank, hashing.DROPOUT)) >> 1)


def optimizer_step(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    window: Sequence[MicroBatch],
    max_grad_norm: float | None,
    *,
    step: int,
    stop_requested: bool = False,
    milliseconds: int = 0,
) -> StepResult:
    """Compute the gradients of a window of micro-batches and take one step along them.

    Every predicted token of the global batch weighs the same, whichever process and micro-batch it is in. Accelerate
    divides each loss by a number of micro-batches and averages over processes, so the sums are scaled by processes x
    micro-batches / predicted tokens. The tokens are counted before the first backward pass, because DeepSpeed updates
    inside the last.

    Args:
        accelerator: The processes.
        model: A prepared `MaskedLanguageModel` in training mode.
        optimizer: Its prepared optimizer, the learning rate set.
        window: This process's micro-batches, equally many on every process.
        max_grad_norm: Gradients with a larger norm are scaled down to it.
        step: Updates done before this one.
        stop_requested: Whether this process was asked to stop; told to all with the counts.
        milliseconds: What this process's clock says, if it is the one that counts, else 0; told to all as well.
    """
    device = accelerator.device
    num_masked, num_tokens = sum(micro.num_masked for micro in window), sum(micro.num_tokens for micro in window)
    told = [num_masked, num_tokens, int(stop_requested), milliseconds]
    counts = torch.tensor(told, dtype=torch.int64, pin_memory=device.type == "cuda")
    counts = accelerator.reduce(counts.to(device, non_blocking=True), "sum")
    divisor = distributed.begin_window(accelerator, len(window))
    scale = accelerator.num_processes * divisor / counts[0].clamp(min=1)
    loss_sum = torch.zeros((), device=device)
    grad_norm: torch.Tensor | None = None
    skipped: torch.Tensor | None = None
    for micro in window:
        batch = micro.to(device)
        with accelerator.accumulate(model):
            loss = model(*batch.inputs).loss_sum
            if faults.planned("nan", step, accelerator.process_index):
                loss = loss * float("nan")
            accelerator.backward(loss * scale)
            faults.kill_here("mid_step", step, accelerator.process_index)
            if accelerator.sync_gradients:
                grad_norm = distributed.clip_and_measure(accelerator, model, max_grad_norm)
                if grad_norm is not None:
                    skipped = distributed.leave_out_if_not_finite(accelerator, optimizer, grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        loss_sum += loss.detach()
    if grad_norm is None:
        grad_norm = distributed.grad_norm_of_last_step(model)
    if skipped is None:
        skipped = distributed.was_left_out(accelerator)
    return StepResult(loss_sum, counts[0], counts[1], grad_norm, skipped, counts[2], counts[3])
