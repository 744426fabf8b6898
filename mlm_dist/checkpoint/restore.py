"""Restoring a run from a checkpoint: weights, moments, loss scale and state, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.engine.protocol import Engine, FullState
from mlm_dist.files import open_tensors
from mlm_dist.optim.ema import EMA
from mlm_dist.spec import BatchSpec
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)


def restore(
    path: Path | None,
    engine: Engine,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[BatchSpec],
    example_loss: Callable[[], torch.Tensor],
) -> TrainState:
    """Set up an engine with the weights and moments of a checkpoint, and return its state; collective.

    Args:
        path: A verified checkpoint; None sets the engine up for a new run.
        engine: The engine.
        module: The module, not set up yet.
        optimizer: Its optimizer.
        batches: How a global batch is spread, in each phase.
        example_loss: Computes the loss of a micro-batch by the engine's model.
    """
    if path is not None:
        SavedWeights((path,)).load(module)
    with stage("placing model", leaves_after=2):  # the first time, DeepSpeed may compile something
        engine.setup(module, optimizer)
    if path is None:
        return TrainState.new(engine.device)
    saved = format.read_state(path)
    state, saved_micro_batch = TrainState.from_json(saved, engine.device), saved["micro_batch"]
    micro_batch = batches[len(state.phases) - 1].micro_size
    if engine.is_main:
        logger.info("resuming from %s at step %s, %s samples", path, f"{state.step:,}", f"{state.samples:,}")
        if saved_micro_batch != micro_batch:
            logger.warning(
                "the micro-batch is %d rows, before it was %d: losses agree up to rounding, but bits may differ",
                micro_batch,
                saved_micro_batch,
            )
    _load_moments(path, engine, state, example_loss)
    return state


def _load_moments(path: Path, engine: Engine, state: TrainState, example_loss: Callable[[], torch.Tensor]) -> None:
    with (
        open_tensors(path / "model.safetensors") as weights,
        open_tensors(path / "optimizer.safetensors") as moments,
    ):
        averaged = {name.removeprefix(f"{EMA}/") for name in moments.keys() if name.startswith(f"{EMA}/")}  # noqa: SIM118
        if engine.is_main:
            _report_average(
                path, is_saved=bool(averaged), is_kept=any(EMA in one for one in engine.moment_names().values())
            )

        def moment(key: str, name: str, rows: slice) -> torch.Tensor:
            is_new = key == EMA and name not in averaged
            return _rows(weights, name, rows) if is_new else _rows(moments, f"{key}/{name}", rows)

        engine.load(
            FullState(
                weights=weights.get_tensor,
                moments=moment,
                num_steps=state.step - int(state.skipped_steps),
                loss_scale=state.loss_scale,
            ),
            example_loss,
        )


def _report_average(path: Path, *, is_saved: bool, is_kept: bool) -> None:
    """Log that an average of the weights begins or ends here. Training is the same with and without one."""
    if is_kept and not is_saved:
        logger.info("optim.ema_decay: %s has no average of the weights; it starts from the weights there", path)
    if is_saved and not is_kept:
        logger.warning("optim.ema_decay is not set: the average of the weights in %s is not continued", path)


def _rows(file: Any, name: str, rows: slice) -> torch.Tensor:
    """Some rows of a tensor; nothing else of it is read."""
    part = file.get_slice(name)
    values: torch.Tensor = part[rows] if part.get_shape() else file.get_tensor(name)
    # A copy: the library gives a view of the file, which would keep a removed checkpoint on the disk.
    return values.clone()
