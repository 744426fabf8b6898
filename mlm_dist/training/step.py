"""One training step: losses are summed over the whole global batch and divided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mlm_dist import faults, hashing
from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.engine.protocol import Engine
from mlm_dist.objectives.protocol import Objective


@dataclass(frozen=True)
class StepResult:
    """The result of a step; tensors, so that nothing waits for the device until a log line is due.

    Args:
        loss_sums: [terms] sums over this rank's micro-batches, in nats.
        counts: [terms] what the sums are divided by, over the global batch.
        num_tokens: Tokens of the global batch that are not padding.
        grad_norm: Global norm of the gradient before clipping.
        skipped: 1 if the step was skipped because a value was not finite, else 0; int64.
        stop: Over 0 if any rank was asked to stop before this step.
        milliseconds: The clock of rank 0 before this step.
    """

    loss_sums: torch.Tensor
    counts: torch.Tensor
    num_tokens: torch.Tensor
    grad_norm: torch.Tensor
    skipped: torch.Tensor
    stop: torch.Tensor
    milliseconds: torch.Tensor


@dataclass(frozen=True)
class Messages:
    """What a rank sends to all others with the counts of a step.

    Args:
        stop: Whether this rank was asked to stop.
        milliseconds: The clock of this rank if it is rank 0, else 0.
    """

    stop: bool = False
    milliseconds: int = 0


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make the dropout of a step a function of (seed, step, rank)."""
    torch.manual_seed(int(hashing.key(seed, step, rank, hashing.DROPOUT)) >> 1)


def example_loss(engine: Engine, objective: Objective, batch: MicroBatch) -> torch.Tensor:
    """The loss of a micro-batch by the engine's model, undivided."""
    return torch.stack(list(objective.loss(engine.model, batch.to(engine.device)).values())).sum()


def train_step(
    engine: Engine,
    objective: Objective,
    micro_batches: Sequence[MicroBatch],
    lr: float,
    step: int,
    messages: Messages = Messages(),
) -> StepResult:
    """Compute the gradient of a global batch and take one step along it; collective.

    Every predicted token of the global batch has the same weight, on whichever rank and in whichever micro-batch it is.
    Tokens are counted over all ranks before the first backward pass, because DeepSpeed steps inside the last one.

    Args:
        engine: The engine, its model in training mode.
        objective: The objective.
        micro_batches: This rank's micro-batches, the same number on every rank.
        lr: The learning rate.
        step: Steps done before this one.
        messages: What this rank sends to all others.
    """
    device, terms = engine.device, objective.terms
    micro_batches = objective.prepared(engine, micro_batches)
    counted = [objective.count(batch) for batch in micro_batches]
    sent = [sum(counts[term] for counts in counted) for term in terms]
    sent += [sum(batch.num_tokens for batch in micro_batches), int(messages.stop), messages.milliseconds]
    local = torch.tensor(sent, dtype=torch.int64, pin_memory=device.type == "cuda")
    received = engine.sum(local.to(device, non_blocking=True))
    counts = received[: len(terms)]

    scales = engine.begin_step(step, lr, len(micro_batches)) / counts.clamp(min=1)
    loss_sums = torch.zeros(len(terms), device=device)
    for batch in micro_batches:
        with engine.micro_batch():
            losses = objective.loss(engine.model, batch.to(device))
            sums = torch.stack([losses[term] for term in terms])
            if faults.planned("nan", step, engine.rank):
                sums = sums * float("nan")
            engine.backward((sums * scales).sum())
        faults.kill_here("mid_step", step, engine.rank)
        loss_sums += sums.detach()
    outcome = engine.finish_step()
    num_tokens, stop, milliseconds = received[len(terms) :].unbind()
    return StepResult(loss_sums, counts, num_tokens, outcome.grad_norm, outcome.skipped.long(), stop, milliseconds)
