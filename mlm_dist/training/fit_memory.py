"""The memory trial: a micro-batch that is too large is found before the first step, when nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mlm_dist import faults
from mlm_dist.batches import shapes
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.batches.shapes import Rows
from mlm_dist.corpora import Corpora
from mlm_dist.engine.out_of_memory import is_out_of_memory
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError, TrainingError, reason
from mlm_dist.objectives.protocol import Objective
from mlm_dist.spec import BatchSpec, PhaseSpec, Spec
from mlm_dist.training.task import Task

logger = logging.getLogger(__name__)

CHECKPOINTING = "--model.checkpointing layers"
# Per parameter: two moments, the most that an optimizer keeps, and what a step adds for a moment. torch's foreach AdamW
# and StableAdamW take the root of all second moments at once; the fused AdamW adds nothing, Muon one matrix at a time.
_MOMENTS, _UPDATE = 8, 4
_AVERAGE = 4  # per parameter: an exponential moving average of the weights


@dataclasses.dataclass(frozen=True)
class TrialSettings:
    """What a trial depends on besides the objective, the module and the rows.

    Args:
        checkpointing: `model.checkpointing`, for messages.
        ema: Whether the optimizer keeps an exponential moving average of the weights.
    """

    checkpointing: str = "none"
    ema: bool = False


def fit_phases(engine: Engine, spec: Spec, task: Task, corpora: Corpora) -> Spec:
    """The run with a micro-batch in each phase that every rank has the memory for, see `fit_memory`; collective.

    Phases with the same micro-batches are tried once.
    """
    tried: dict[Any, BatchSpec] = {}
    settings = TrialSettings(spec.model.checkpointing, spec.optim.ema_decay is not None)

    def fitted(phase: PhaseSpec, objective: Objective) -> PhaseSpec:
        alike = (phase.objective, phase.rows, phase.masking, phase.batch)
        if alike not in tried:
            rows = corpora.of_rows[phase.rows].rows("train")
            tried[alike] = fit_memory(engine, objective, task.module, phase.batch, rows, settings)
        return dataclasses.replace(phase, batch=tried[alike])

    phases = tuple(map(fitted, spec.phases, task.objectives))
    engine.set_batch(phases[0].batch)
    return dataclasses.replace(spec, phases=phases)


def fit_memory(
    engine: Engine, objective: Objective, module: Any, batch: BatchSpec, rows: Rows, settings: TrialSettings
) -> BatchSpec:
    """The batch with a micro-batch that every rank has the memory for; collective, before `engine.setup`.

    One micro-batch goes forward and backward like any but the first of a step: gradients exist already, and the memory
    of the optimizer's moments is reserved. After it, so is what the optimizer's step adds: 12 bytes per parameter in
    all, besides weights and gradients, and 4 more for an average of the weights. If any rank runs out of memory, all
    ranks halve the micro-batch and double the accumulation, which does not change the loss curve. The trial comes
    before any rank depends on another: a rank that runs out of memory within a step leaves the others waiting for its
    gradients. Sharded models are not tried, as they may not fit unsharded; `explained` covers them.

    Args:
        engine: The engine.
        objective: The objective.
        module: Its module, not set up yet.
        batch: The batch.
        rows: The training rows.
        settings: What else the trial depends on.

    Raises:
        ConfigError: Not even one row fits.
    """
    batch = batch.with_micro_size(int(engine.min(batch.micro_size)))  # GPUs may differ in size
    while not engine.is_sharded:
        samples = np.arange(batch.micro_size) % len(rows)
        # As many positions go through the head as in the fullest micro-batch of a run.
        fullest = shapes.fixed(objective.corruption, rows, batch.micro_size)
        wanted = Samples(np.zeros_like(samples), samples)
        micro = assemble(rows, objective.corruption, wanted, batch.micro_size, filled_to=fullest)
        if engine.min(_fits(engine, objective, module, micro, _MOMENTS + _AVERAGE * settings.ema)):
            break
        if batch.micro_size == 1:
            first = f"use {CHECKPOINTING}, " if settings.checkpointing == "none" else ""
            raise ConfigError(
                f"batch.micro_size: not even one row fits the memory; {first}lower rows.max_length, choose a smaller "
                "model, or shard it with configs/accelerate/zero3.yaml"
            )
        smaller = batch.halved()
        if engine.is_main:
            logger.info("out of memory with a micro-batch of %d rows; trying %s", batch.micro_size, smaller.describe())
        batch = smaller
    return batch


@contextlib.contextmanager
def explained(batches: Sequence[BatchSpec], checkpointing: str = "none") -> Iterator[None]:
    """Replace an out-of-memory error inside by one that names the remedy.

    Args:
        batches: The batch of each phase.
        checkpointing: `model.checkpointing`.

    Raises:
        TrainingError: Out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        batch = max(batches, key=lambda batch: batch.micro_size)
        flags = [f"--batch.micro_size {batch.halved().micro_size}"] if batch.micro_size > 1 else []
        flags += [CHECKPOINTING] if checkpointing == "none" else []
        remedies = [f"run again with {' or '.join(flags)}"] if flags else []
        remedy = ", or ".join([*remedies, *([] if batch.micro_size > 1 else ["shard the model with zero3"])])
        raise TrainingError(
            f"batch.micro_size: out of memory with {batch.micro_size} rows at once ({reason(error)}); {remedy}: "
            "the run resumes from the last checkpoint, and the loss curve stays the same"
        ) from error


def _fits(engine: Engine, objective: Objective, module: Any, batch: MicroBatch, kept: int) -> bool:
    """Whether a micro-batch fits beside so many bytes per trained parameter that the optimizer keeps."""
    device = engine.device
    fits = True
    try:
        module.to(device)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        count = sum(parameter.numel() for parameter in trained)
        moments = torch.empty(count * kept, dtype=torch.uint8, device=device)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        if faults.planned("memory", len(batch.input_ids), engine.rank):
            moments = torch.empty(1 << 60, dtype=torch.uint8, device=device)
        with engine.autocast():
            losses = objective.loss(module, batch.to(device))
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        del losses, loss
        torch.empty(count * _UPDATE, dtype=torch.uint8, device=device)
        del moments
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    module.zero_grad(set_to_none=True)
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    return fits
