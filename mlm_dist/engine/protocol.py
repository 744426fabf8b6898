"""What runs a model on some hardware.

A training step is the same on every engine:

    factor = engine.begin_step(step, lr, len(micro_batches))
    for batch in micro_batches:
        with engine.micro_batch():
            loss = ... engine.model(*batch.inputs) ...
            engine.backward(loss * factor / count)
    outcome = engine.finish_step()

The engine divides each loss by the number of micro-batches and averages gradients over ranks; `factor` undoes both, so
that a loss divided by a count of the global batch gives the gradient of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from mlm_dist.config import TrackingConfig
from mlm_dist.spec import BatchSpec

T = TypeVar("T")

LossScale = tuple[float, int]  # fp16's loss scale, and the steps since it last changed


class StepOutcome(NamedTuple):
    """What the optimizer did in a step; tensors, so that nothing waits for the device.

    Args:
        grad_norm: Global norm of the gradient before clipping.
        skipped: 1 if the step was skipped because the norm was not finite, else 0.
    """

    grad_norm: torch.Tensor
    skipped: torch.Tensor


@dataclass
class Progress:
    """What a rank has done, for the watchdog: counts of ranks that are at the same point are equal.

    Args:
        count: Sums, micro-batches and gathered tensors that this rank has begun.
        waits_for_main: Whether it waits for work of rank 0 alone, however long that takes.
    """

    count: int = 0
    waits_for_main: bool = False


class LossModel(Protocol):
    """A module whose forward pass gives what an objective computes its loss from."""

    model: Any  # the transformers model
    num_parameters: int

    def has_unused(self) -> bool:
        """Whether some parameter gets no gradient in a backward pass."""
        ...


class FullState(NamedTuple):
    """Where the weights and moments of a checkpoint are read from.

    Args:
        weights: Name -> fp32 values on the CPU. They may be a view of the file, read where they are used.
        moments: (moment, name, rows) -> fp32 values on the CPU of these rows, a slice of the first dimension.
        num_steps: Steps that the moments come from, skipped ones not counted.
        loss_scale: fp16's loss scale; None in other precisions.
    """

    weights: Callable[[str], torch.Tensor]
    moments: Callable[[str, str, slice], torch.Tensor]
    num_steps: int
    loss_scale: LossScale | None


class Engine(Protocol):
    """Runs a model and its optimizer. Every rank makes one and calls the same methods in the same order.

    Attributes:
        device: The device of this rank.
        rank: This process.
        world_size: Number of processes.
        is_main: Whether this is rank 0.
        is_sharded: Whether no process holds the whole model and its optimizer.
        model: The model as it is called in training and validation; set by `setup`.
        progress: What this rank has done.
    """

    device: torch.device
    rank: int
    world_size: int
    is_main: bool
    is_sharded: bool
    model: Any
    progress: Progress

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Place, wrap and shard an ordinary module and its optimizer; collective."""
        ...

    def set_batch(self, batch: BatchSpec) -> None:
        """Change the micro-batch and the accumulation; before `setup`."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass, for a module that is not set up."""
        ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of tensors of one shape, on the device; collective."""
        ...

    def min(self, value: float) -> float:
        """The smallest value of any rank; collective, waits for the device."""
        ...

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something on rank 0, however long it takes, and fail on all ranks if it fails; collective.

        The other ranks wait outside the process group, so that its timeout does not end them.

        Returns:
            What `work` returned on rank 0, a JSON value; the same on all ranks.

        Raises:
            UserError: What `work` raised, on rank 0; a ConfigError about output_dir for an OSError.
            PeerError: The same, on the other ranks.
        """
        ...

    def begin_phase(self, index: int) -> None:
        """Begin a phase of the run, from 0: parameters that it freezes keep their values in the steps that follow."""
        ...

    def begin_step(self, step: int, lr: float, num_micro_batches: int) -> float:
        """Begin a step, from 0, with a learning rate; returns the factor for its losses (see the module)."""
        ...

    def micro_batch(self) -> AbstractContextManager[None]:
        """The context of one forward and backward pass of a step."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        ...

    def finish_step(self) -> StepOutcome:
        """Clip the gradients, step unless their norm is not finite, and drop them."""
        ...

    def parameters(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """(name, fp32 values) of every parameter, one at a time; collective, exhaust it on every rank.

        The values are on the device, and valid until the next step. On other ranks than 0 they are None.
        """
        ...

    def moments(self, only: str | None = None) -> Iterator[tuple[str, torch.Tensor | None]]:
        """("moment/name", fp32 values) of every moment, or of one kind of moment; as `parameters`.

        Before the first step, and for parameters that have no gradient, they are zero, and an average of the weights is
        the weights.
        """
        ...

    def set_parameters(self, values: Iterable[tuple[str, torch.Tensor | None]]) -> None:
        """Replace trained parameters, after the last step: moments and averages stay as they are; collective.

        Args:
            values: (name, fp32 values), as `parameters` gives them: the same names on every rank, the values on rank 0.
        """
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of every parameter, unsharded."""
        ...

    def moment_names(self) -> Mapping[str, tuple[str, ...]]:
        """{name of a trained parameter: names of its moments}."""
        ...

    def load(self, state: FullState, example_loss: Callable[[], torch.Tensor]) -> None:
        """Load weights and moments into the module and optimizer that are set up; collective.

        Args:
            state: What to load. The module already holds the weights, rounded where it is not fp32.
            example_loss: Computes the loss of a micro-batch, for an engine that creates its moments in a first step.
        """
        ...

    @property
    def loss_scale(self) -> LossScale | None:
        """fp16's loss scale; None in other precisions."""
        ...

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Hand values to the experiment trackers."""
        ...

    def start_trackers(
        self,
        tracking: TrackingConfig,
        settings: Mapping[str, bool | int | float | str],
        run_name: str,
        folder: str,
        resumed_from: int,
    ) -> None:
        """Start the experiment trackers, or resume their runs if the run resumes from a step; on rank 0."""
        ...

    def track_results(self, values: Mapping[str, float]) -> None:
        """Hand the results of a finished run to the experiment trackers."""
        ...

    def close(self, *, failed: bool = False) -> None:
        """Release the model, finish the trackers and leave the other ranks.

        Args:
            failed: Whether this rank leaves because of an exception, so that other ranks may not.
        """
        ...
