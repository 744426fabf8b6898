"""Starting the engine of a launch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, ProjectConfiguration
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

from mlm_dist.engine import missing_gpus, trackers
from mlm_dist.engine.base import reset
from mlm_dist.engine.cpu import cpu_settings
from mlm_dist.engine.device import wants_cpu
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.environment import restored
from mlm_dist.errors import ConfigError, Interrupted
from mlm_dist.model.attention import MAX_LENGTH_ON_CPU
from mlm_dist.spec import BatchSpec, Spec
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)

# A collective that waits for so long has lost a rank. The backends' own limits, 10 and 30 minutes, are shorter than the
# first compilation, or a slow disk, may take.
TIMEOUT = timedelta(hours=2)
_STARTS = itertools.count()  # of engines in this process; every rank starts the same ones


def start_engine(spec: Spec) -> contextlib.AbstractContextManager[Engine]:
    """The engine of a run, see `start`."""
    trackers = tuple(spec.tracking.trackers)
    return start(
        *(spec.launch, spec.phases[0].batch, spec.optim.max_grad_norm),
        folder=str(spec.output_dir),
        log_with=trackers,
        long_rows=spec.corpus.longest_row > MAX_LENGTH_ON_CPU,
    )


@contextlib.contextmanager
def start(
    launch: Launch,
    batch: BatchSpec,
    max_grad_norm: float | None,
    *,
    folder: str = ".",
    log_with: tuple[str, ...] = (),
    long_rows: bool = False,
) -> Iterator[Engine]:
    """Join the processes of this launch, on the device and in the precision that the accelerate file names.

    Inside, libraries may change the environment. After it, also after an exception, the engine is closed and the
    environment is what it was, so that another run can follow in this process.

    Args:
        launch: The launch.
        batch: The batch.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; None turns clipping off.
        folder: The run directory, for trackers that write to the disk.
        log_with: Names of experiment trackers.
        long_rows: Whether rows are too long for the attention kernel on the CPU; see `cpu_settings`.

    Raises:
        ConfigError: Fewer processes joined than were launched.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored())
        stack.callback(reset)
        if launch.device.kind == "cpu":
            if not wants_cpu() and (unused := missing_gpus.unused()):
                logger.warning("this machine has a GPU driver, but the run computes on the CPU: %s", unused)
            stack.enter_context(cpu_settings(keep_large=not long_rows))
        if (
            "MASTER_PORT" in os.environ
            and "ACCELERATE_MIXED_PRECISION" in os.environ
            and "WORLD_SIZE" not in os.environ
        ):
            # accelerate's launcher sets the address for several processes, but starts one if its file is for one.
            logger.warning(
                "accelerate launch was asked for several processes but started one; for several on the CPU use "
                "--config_file configs/accelerate/cpu_2.yaml --num_processes N"
            )
        # Accumulation follows from the batch: accelerate must not take it from an environment variable.
        os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
        with stage("starting processes", leaves_after=2):
            engine = _engine(launch, batch, max_grad_norm, folder, log_with)
        # All ranks are interrupted together, so they can close in order.
        stack.push(lambda kind, *_: engine.close(failed=kind is not None and not issubclass(kind, Interrupted)))
        if engine.world_size != launch.world_size:
            raise ConfigError(
                f"{launch.world_size} processes were launched, but each trains alone ({engine.world_size} joined); "
                "check distributed_type and use_cpu in the accelerate file"
            )
        yield engine


def _engine(
    launch: Launch, batch: BatchSpec, max_grad_norm: float | None, folder: str, log_with: tuple[str, ...]
) -> Engine:
    on_cpu = launch.device.kind == "cpu"
    group = InitProcessGroupKwargs(
        # DeepSpeed finds no backend without a GPU.
        **({"backend": "gloo"} if on_cpu and launch.sharding == "zero" else {}),
        init_method=_rendezvous(),
        timeout=TIMEOUT,
    )
    plugins: dict[str, Any] = {}
    if launch.sharding == "zero":
        from mlm_dist.engine import deepspeed

        plugins["deepspeed_plugin"] = deepspeed.plugin(batch, max_grad_norm)
    if launch.sharding == "fsdp2":
        from mlm_dist.engine import fsdp2

        plugins["fsdp_plugin"] = fsdp2.plugin(launch.precision)
        if on_cpu:
            fsdp2.join_on_cpu(group)
    accelerator = Accelerator(
        cpu=on_cpu and not launch.is_sharded,
        **plugins,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=batch.accumulation,
            sync_with_dataloader=False,
            adjust_scheduler=False,
            # Otherwise FSDP2 keeps the gradients of the whole model on every device until the last micro-batch.
            sync_each_batch=launch.sharding == "fsdp2",
        ),
        kwargs_handlers=[group],
        log_with=trackers.accelerate_names(log_with, folder) or None,
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
        step_scheduler_with_optimizer=False,
    )
    if launch.sharding == "zero":
        return deepspeed.DeepSpeedEngine(accelerator, launch, max_grad_norm)
    from mlm_dist.engine.torch import TorchEngine

    return TorchEngine(accelerator, launch, max_grad_norm)


def _rendezvous() -> str | None:
    """How the processes find each other: as the launcher says, but never through what an earlier engine left.

    The launcher's store keeps the addresses of processes that were lost before a restart, and of earlier runs of the
    same processes.
    """
    restarts, earlier = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), next(_STARTS)
    if restarts == "0" and not earlier:
        return None

    def meet(url: str, **given: Any) -> Iterator[tuple[Store, int, int]]:
        store, rank, world_size = next(rendezvous("env://", **given))
        yield PrefixStore(urlsplit(url).netloc, store), rank, world_size

    with contextlib.suppress(RuntimeError):  # it is registered already, by an earlier run of this process
        register_rendezvous_handler("again", meet)  # type: ignore[no-untyped-call]
    return f"again://restart-{restarts}-{earlier}"
