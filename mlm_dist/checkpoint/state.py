"""The state of a run: everything it carries from step to step besides weights and moments.

Order, masks, dropout and learning rate follow from (seed, step), so no random state is carried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

SPIKE_DEVIATIONS = 6.0
_DECAY = 0.1  # weight of the newest loss in the moving average


@dataclass(frozen=True)
class Best:
    """The validation with the lowest loss. It follows from the validation losses, which are the same on all ranks.

    The validation before the first step is not counted: it is no result of training.

    Args:
        loss: Its validation loss in nats; None while there is no finite one.
        step: Its step.
        since: Validations since then without a lower loss.
        rows: The rows that these validations use, in words; None before the first.
    """

    loss: float | None = None
    step: int | None = None
    since: int = 0
    rows: str | None = None

    def after(self, step: int, loss: float) -> Best:
        """The best one after another validation; a loss that is not finite is never better."""
        if step == 0:
            return self
        if loss < (math.inf if self.loss is None else self.loss):
            return Best(loss, step, rows=self.rows)
        return dataclasses.replace(self, since=self.since + 1)

    def on_rows(self, rows: str) -> Best:
        """The best validation on some rows: none yet if the one so far was on others, whose loss is another quantity.

        Args:
            rows: The rows that validations use from here on, see `ValidationSet.description`.
        """
        return self if self.rows == rows else Best(rows=rows)

    def ends_training(self, patience: int | None) -> bool:
        """Whether there were `patience` validations without a lower loss; never with None."""
        return patience is not None and self.since >= patience


@dataclass(frozen=True)
class LossAverage:
    """Moving average of logged losses and their variance, over about 20 values, to detect loss spikes.

    Args:
        mean: Mean in nats; None before the first loss.
        variance: Variance.
    """

    mean: float | None = None
    variance: float = 0.0

    def is_spike(self, loss: float | None) -> bool:
        """Whether a loss is more than six standard deviations above the mean."""
        limit = self.limit
        return loss is not None and limit is not None and loss > limit

    @property
    def limit(self) -> float | None:
        """The loss above which a loss is a spike; None before the first one."""
        return None if self.mean is None else self.mean + SPIKE_DEVIATIONS * math.sqrt(self.variance)

    def after(self, loss: float | None) -> LossAverage:
        """The average with another loss; None, for a loss that is not finite, changes nothing."""
        if loss is None:
            return self
        if self.mean is None:
            return LossAverage(loss, (0.1 * loss) ** 2)
        distance = loss - self.mean
        return LossAverage(self.mean + _DECAY * distance, (1 - _DECAY) * (self.variance + _DECAY * distance * distance))


@dataclass(frozen=True)
class Divergence:
    """Whether training has diverged: a logged loss was a spike or not finite, and none has come back since.

    Args:
        good_step: The last logged step before it; while there is none, the last logged step.
        has_begun: Whether training has diverged.
        limit: The loss in nats that counts as come back; None for any finite loss.
    """

    good_step: int = 0
    has_begun: bool = False
    limit: float | None = None

    def after(self, step: int, loss: float | None, average: LossAverage) -> Divergence:
        """The same after another logged loss, which `average` does not hold yet."""
        if self.has_begun:
            has_come_back = loss is not None and (self.limit is None or loss <= self.limit)
            return Divergence(step) if has_come_back else self
        if loss is not None and not average.is_spike(loss):
            return Divergence(step)
        return Divergence(self.good_step, has_begun=True, limit=average.limit)


class PhaseStart(NamedTuple):
    """How far the run was when a phase began.

    Args:
        step: Steps done.
        samples: Samples consumed.
    """

    step: int
    samples: int


@dataclass(frozen=True)
class TrainState:
    """How far a run is. Counts that the device computes stay tensors, so that no step waits for the device.

    Args:
        step: Steps done, skipped ones included.
        samples: Samples consumed.
        tokens: Tokens consumed; an int64 scalar, as the next two.
        skipped_steps: Steps skipped because a value was not finite.
        skipped_in_a_row: Steps skipped since the last one that was not.
        phases: When each phase began, up to the one that the run is in.
        loss_scale: fp16's loss scale and the steps since it last changed; None in other precisions.
        seconds: For a phase of some hours: the time used since its first step, else 0.
        estimate: For a phase of some hours: the hours, and the number of steps they were last estimated to hold.
        best: The validation with the lowest loss.
        loss_average: Moving average of the logged losses.
        divergence: Whether training has diverged.
    """

    step: int
    samples: int
    tokens: torch.Tensor
    skipped_steps: torch.Tensor
    skipped_in_a_row: torch.Tensor
    phases: tuple[PhaseStart, ...] = (PhaseStart(0, 0),)
    loss_scale: tuple[float, int] | None = None
    seconds: float = 0.0
    estimate: tuple[float, int] | None = None
    best: Best = field(default_factory=Best)
    loss_average: LossAverage = field(default_factory=LossAverage)
    divergence: Divergence = field(default_factory=Divergence)

    @classmethod
    def new(cls, device: torch.device) -> TrainState:
        """The state of a run before its first step."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return cls(0, 0, zero, zero, zero)

    def after(self, samples: int, num_tokens: torch.Tensor, skipped: torch.Tensor) -> TrainState:
        """The state after another step.

        Args:
            samples: Samples consumed up to now.
            num_tokens: Tokens of the step's global batch.
            skipped: 1 if the step was skipped, else 0; int64.
        """
        return dataclasses.replace(
            self,
            step=self.step + 1,
            samples=samples,
            tokens=self.tokens + num_tokens,
            skipped_steps=self.skipped_steps + skipped,
            skipped_in_a_row=(self.skipped_in_a_row + skipped) * skipped,
        )

    def in_next_phase(self) -> TrainState:
        """The state in which the next phase begins."""
        phases = (*self.phases, PhaseStart(self.step, self.samples))
        return dataclasses.replace(self, phases=phases, seconds=0.0, estimate=None)

    def logged(self, loss: float | None) -> TrainState:
        """The state after the loss of its step was logged; None for a loss that is not finite."""
        divergence = self.divergence.after(self.step, loss, self.loss_average)
        return dataclasses.replace(self, loss_average=self.loss_average.after(loss), divergence=divergence)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON; waits for the device."""
        counts = {name: int(getattr(self, name)) for name in ("tokens", "skipped_steps", "skipped_in_a_row")}
        return {
            "step": self.step,
            "samples": self.samples,
            **counts,
            "phases": [list(start) for start in self.phases],
            "loss_scale": self.loss_scale,
            "seconds": self.seconds,
            "estimate": self.estimate,
            "best": dataclasses.asdict(self.best),
            "loss_average": dataclasses.asdict(self.loss_average),
            "divergence": dataclasses.asdict(self.divergence),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any], device: torch.device) -> TrainState:
        """The state that `to_json` gave."""
        counts = {
            name: torch.tensor(int(state[name]), dtype=torch.int64, device=device)
            for name in ("tokens", "skipped_steps", "skipped_in_a_row")
        }
        pairs = {
            name: None if state[name] is None else (float(state[name][0]), int(state[name][1]))
            for name in ("loss_scale", "estimate")
        }
        return cls(
            int(state["step"]),
            int(state["samples"]),
            **counts,
            phases=tuple(PhaseStart(*start) for start in state["phases"]),
            loss_scale=pairs["loss_scale"],
            seconds=float(state["seconds"]),
            estimate=pairs["estimate"],
            best=Best(**state["best"]),
            loss_average=LossAverage(**state["loss_average"]),
            divergence=Divergence(**state["divergence"]),
        )
