"""The facts of a run that its `start` and `end` lines record: numbers and short names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlm_dist import __version__
from mlm_dist.spec import Spec
from mlm_dist.training.result import TrainResult
from mlm_dist.training.task import Task


def start_facts(spec: Spec, task: Task) -> dict[str, object]:
    """The `start` line of metrics.jsonl, without the unigram baseline.

    Args:
        spec: The run, with its length.
        task: What it trains.
    """
    launch, first = spec.launch, spec.phases[0]
    batch, length = first.batch, first.length
    hours = [phase.duration.value for phase in spec.phases if phase.duration.unit == "hours"]
    duration: dict[str, object] = {"hours": sum(hours)}
    if spec.num_steps is not None:
        samples = sum(phase.length.samples or 0 for phase in spec.phases)
        duration = {"samples": samples, "steps": spec.num_steps, "warmup_steps": length.warmup_steps}
    return {
        "version": __version__,
        "corpus": task.corpus,
        "rows": task.num_rows,
        **({f"mix_{name}": share for name, share in first.mix.items()} if not first.name else {}),
        "objective": spec.phases[-1].objective,
        "model": spec.model.name_or_path,
        **({} if spec.model.revision is None else {"revision": spec.model.revision}),
        "from_scratch": spec.model.from_scratch,
        **({} if spec.model.init_from is None else {"init_from": spec.model.init_from}),
        **({} if spec.model.trainable_layers is None else {"trainable_layers": spec.model.trainable_layers}),
        "lm_head": task.head,
        "parameters": task.module.num_parameters,
        "masked_head": bool(getattr(task.module, "masked_head", False)),
        "compile": spec.model.compile,
        "checkpointing": spec.model.checkpointing,
        "world_size": launch.world_size,
        "device": launch.device.kind,
        "sharding": launch.sharding_name,
        "offload": sorted(launch.offload),
        "precision": launch.precision,
        "global_batch": batch.global_size,
        "micro_batch": batch.micro_size,
        "accumulation": batch.accumulation,
        **duration,
        "optimizer": spec.optim.name,
        "schedule": first.rate.schedule,
        "peak_learning_rate": first.rate.peak,
        **({"phases": {phase.name: phase.length.steps for phase in spec.phases}} if first.name else {}),
        **({} if spec.optim.ema_decay is None else {"ema_decay": spec.optim.ema_decay}),
    }


def end_facts(
    result: TrainResult, losses: Mapping[int, float], *, keeps_best: bool, stopped_early: bool
) -> dict[str, object]:
    """The `end` line of metrics.jsonl, without its times.

    Args:
        result: The result of this process.
        losses: {step: validation loss} of the run on the rows of its last validation, on rank 0.
        keeps_best: Whether the checkpoint with the lowest validation loss is kept.
        stopped_early: Whether the patience is used up.
    """
    facts: dict[str, object] = {"step": result.step}
    if result.is_finished and not stopped_early:
        facts["steps"] = result.step  # of the whole run; train lines of some hours hold estimates
    if losses and result.is_finished:
        facts |= {"loss_before": losses.get(0, math.nan), "loss_after": losses[max(losses)]}
        facts["unigram_loss"] = result.unigram_loss
    if keeps_best and result.best.step is not None:
        facts |= {"best_step": result.best.step, "best_loss": result.best.loss, "stopped_early": stopped_early}
    if result.is_finished:
        facts |= average_losses(result.averages)
        if result.exported_average is not None:
            facts["exported_average"] = result.exported_average
    return facts


def average_losses(averages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{name: validation loss} of averaged weights."""
    return {f"{name}_loss": line["loss"] for name, line in averages.items()}
