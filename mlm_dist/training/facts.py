"""The facts of a run that its `start` line records: numbers and short names."""

from __future__ import annotations

from mlm_dist import __version__
from mlm_dist.spec import Spec
from mlm_dist.training.task import Task


def start_facts(spec: Spec, task: Task) -> dict[str, object]:
    """The `start` line of metrics.jsonl, without the unigram baseline.

    Args:
        spec: The run, with its length.
        task: What it trains.
    """
    launch, batch, length = spec.launch, spec.batch, spec.length
    duration: dict[str, object] = {"hours": spec.optim.duration.value}
    if length.steps is not None:
        duration = {"samples": length.samples, "steps": length.steps, "warmup_steps": length.warmup_steps}
    return {
        "version": __version__,
        "corpus": task.corpus,
        "rows": task.num_rows,
        "objective": spec.objective,
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
        "schedule": spec.optim.schedule,
        **({} if spec.optim.ema_decay is None else {"ema_decay": spec.optim.ema_decay}),
        "peak_learning_rate": spec.optim.lr,
    }
