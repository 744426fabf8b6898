"""The time of a run before it begins: a measured step, and what is computed from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mlm_dist.engine import communication
from mlm_dist.engine.communication import Communication
from mlm_dist.spec import Spec
from mlm_dist.training import step_time

# A forward pass without a backward pass computes a third of the products of both.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class TimeEstimate:
    """The time of a run, without preparation, checkpoints and export.

    Args:
        step: Seconds of a step that each process computes.
        sent: What processes exchange in a step; None for one process.
        steps: Number of steps.
        validations: Number of validations.
        rows: Rows of each.
        validation: Seconds of all validations.
    """

    step: float
    sent: Communication | None
    steps: float
    validations: int
    rows: int
    validation: float

    @property
    def exchange(self) -> float:
        """Seconds of a step in which processes exchange gradients and weights, if nothing else happens."""
        return 0.0 if self.sent is None else self.sent.seconds

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return (self.step + self.exchange) * self.steps + self.validation

    def shares(self) -> dict[str, float]:
        """{what takes time: its share}; all shares are 1 together."""
        parts = {"training": self.step * self.steps, "exchange between processes": self.exchange * self.steps}
        parts["validation"] = self.validation
        return {name: seconds / self.total for name, seconds in parts.items() if seconds}

    def on_processes(self, spec: Spec, count: int) -> TimeEstimate:
        """The same run, of one process, on several devices with DDP; they divide the rows of each step.

        Args:
            spec: The run on one process.
            count: Number of processes, each with a device of its own.
        """
        launch = dataclasses.replace(spec.launch, world_size=count, local_world_size=count, sharding="ddp")
        sent = communication.communication(launch, spec.shape.parameters, 1)
        return dataclasses.replace(self, step=self.step / count, sent=sent, validation=self.validation / count)


def estimate(spec: Spec, steps: float, validation_rows: int) -> TimeEstimate:
    """Measure a step of one process, see `step_time`, and compute the rest.

    Args:
        spec: The run.
        steps: Number of steps.
        validation_rows: Rows of the validation set.
    """
    launch = spec.launch
    seconds = step_time.seconds_per_step(spec)
    sent = None
    if launch.world_size > 1 or launch.is_sharded:
        sent = communication.communication(launch, spec.shape.parameters, spec.batch.accumulation)
    most, every = spec.validation.max_rows, spec.validation.every
    rows = validation_rows if most is None else min(most, validation_rows)
    validations = 2 + (int(max(steps - 1, 0) // every) if every else 0) if rows else 0
    return TimeEstimate(
        seconds, sent, steps, validations, rows, validations * rows / spec.batch.global_size * seconds * FORWARD_SHARE
    )
