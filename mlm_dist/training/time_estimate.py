"""The time of a run before it begins: a measured step, and what is computed from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlm_dist.engine import communication
from mlm_dist.engine.communication import Communication
from mlm_dist.objectives import is_contrastive
from mlm_dist.spec import PhaseSpec, Spec
from mlm_dist.training import step_time

# A forward pass without a backward pass computes a third of the products of both.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class PhaseTime:
    """The time of a phase, without validation.

    Args:
        step: Seconds of a step that each process computes.
        sent: What processes exchange in a step; None for one process.
        given: Number of steps; None for as many as fit into the duration.
        duration: Seconds of a phase whose duration is in hours; else 0.
    """

    step: float
    sent: Communication | None
    given: float | None
    duration: float = 0.0

    @property
    def steps(self) -> float:
        """Number of steps."""
        return self.duration / (self.step + self.exchange) if self.given is None else self.given

    @property
    def exchange(self) -> float:
        """Seconds of a step in which processes exchange gradients and weights, if nothing else happens."""
        return 0.0 if self.sent is None else self.sent.seconds

    @property
    def total(self) -> float:
        """Seconds of the phase."""
        return (self.step + self.exchange) * self.steps


@dataclass(frozen=True)
class TimeEstimate:
    """The time of a run, without preparation, checkpoints and export.

    Args:
        phases: The time of each phase.
        validations: Number of validations.
        rows: Rows of each.
        validation: Seconds of all validations.
    """

    phases: tuple[PhaseTime, ...]
    validations: int
    rows: int
    validation: float

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return sum(phase.total for phase in self.phases) + self.validation

    def shares(self) -> dict[str, float]:
        """{what takes time: its share}; all shares are 1 together."""
        parts = {
            "training": sum(phase.step * phase.steps for phase in self.phases),
            "exchange between processes": sum(phase.exchange * phase.steps for phase in self.phases),
            "validation": self.validation,
        }
        return {name: seconds / self.total for name, seconds in parts.items() if seconds}

    def on_processes(self, spec: Spec, count: int) -> TimeEstimate:
        """The same run, of one process, on several devices with DDP; they divide the rows of each step.

        Args:
            spec: The run on one process.
            count: Number of processes, each with a device of its own.
        """
        launch = dataclasses.replace(spec.launch, world_size=count, local_world_size=count, sharding="ddp")
        sent = communication.communication(launch, spec.shape.parameters, 1)
        phases = tuple(dataclasses.replace(phase, step=phase.step / count, sent=sent) for phase in self.phases)
        return dataclasses.replace(self, phases=phases, validation=self.validation / count)


def estimate(spec: Spec, steps: Sequence[float | None], validation_rows: int) -> TimeEstimate:
    """Measure a step of one process in each phase, see `step_time`, and compute the rest.

    Args:
        spec: The run.
        steps: Number of steps of each phase; None for as many as fit into a duration in hours.
        validation_rows: Rows of the validation set.
    """
    measured: dict[Any, float] = {}  # phases with the same steps are measured once
    for phase in spec.phases:
        if _step(phase) not in measured:
            measured[_step(phase)] = _passes(spec, phase) * step_time.seconds_per_step(spec, phase)
    phases = tuple(
        PhaseTime(
            measured[_step(phase)], _sent(spec, phase), count, 3600 * phase.duration.value if count is None else 0
        )
        for phase, count in zip(spec.phases, steps, strict=True)
    )
    most, every = spec.validation.max_rows, spec.validation.every
    rows = validation_rows if most is None else min(most, validation_rows)
    regular = int(max(sum(phase.steps for phase in phases) - 1, 0) // every) if every else 0
    validations = 1 + len(phases) + regular if rows else 0
    first = spec.phases[0]
    length = spec.corpus.rows.max_length / (first.batch.global_size * first.rows.max_length)  # of a row, in steps
    return TimeEstimate(phases, validations, rows, validations * rows * length * phases[0].step * FORWARD_SHARE)


def _passes(spec: Spec, phase: PhaseSpec) -> float:
    """The passes of a step, in steps of one micro-batch: pairs of several micro-batches are computed forward twice."""
    is_cached = is_contrastive(phase.objective) and phase.batch.accumulation * spec.launch.world_size > 1
    return 1 + FORWARD_SHARE if is_cached else 1


def _step(phase: PhaseSpec) -> tuple[Any, ...]:
    """What the time of a phase's steps depends on."""
    return phase.objective, phase.rows.max_length, phase.masking, phase.batch


def _sent(spec: Spec, phase: PhaseSpec) -> Communication | None:
    launch = spec.launch
    if launch.world_size == 1 and not launch.is_sharded:
        return None
    return communication.communication(launch, spec.shape.parameters, phase.batch.accumulation)
