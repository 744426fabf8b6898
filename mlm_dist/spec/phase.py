"""A phase of a run: what is learnt, from which rows, for how long and at which learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlm_dist.config import ContrastiveConfig, Duration, MaskingConfig
from mlm_dist.config.phases import key_of
from mlm_dist.spec.batch import BatchSpec
from mlm_dist.spec.corpus import RowsSpec

Schedule = Literal["linear", "cosine", "wsd", "sqrt", "constant"]


@dataclass(frozen=True)
class RateSpec:
    """The learning rate of a phase.

    Args:
        peak: The rate after warm-up.
        warmup: Steps, or under 1 a fraction of the phase's steps.
        schedule: The rate after warm-up.
        floor: What the schedule falls to, as a fraction of the peak.
        begin: The rate that warm-up begins with: the last of the phase before, 0 in the first one.
    """

    peak: float
    warmup: float
    schedule: Schedule
    floor: float = 0.0
    begin: float = 0.0


@dataclass(frozen=True)
class Length:
    """How long a phase is; None while the rows are not known, and for a duration in hours.

    Args:
        steps: Number of steps.
        samples: Rows they consume; the last step may be smaller than the others.
        warmup_steps: Steps over which the learning rate rises.
    """

    steps: int | None = None
    samples: int | None = None
    warmup_steps: int | None = None


@dataclass(frozen=True)
class PhaseSpec:
    """A phase.

    Args:
        name: Its name; empty for the only phase of a config without phases.
        objective: Name of the objective.
        mix: {source: share} of the training rows; empty to shuffle the rows of all sources together.
        rows: How documents become rows.
        masking: Which tokens are predicted.
        contrastive: What is learnt from pairs of texts.
        batch: How a global batch is spread.
        rate: The learning rate.
        duration: How long it lasts.
        freeze_embeddings: Whether the token embeddings keep their values.
        trainable_layers: How many of the last layers are trained, with the head alone; None for all.
        rope_theta: Base of the rotary angles of layers with full attention; None for the architecture's.
        memory: `engine.memory.Memory`, the estimate for a step on each device.
        length: Its steps, samples and warm-up steps.
    """

    name: str
    objective: str
    mix: Mapping[str, float]
    rows: RowsSpec
    masking: MaskingConfig
    contrastive: ContrastiveConfig
    batch: BatchSpec
    rate: RateSpec
    duration: Duration
    freeze_embeddings: bool
    trainable_layers: int | None
    rope_theta: float | None
    memory: Any
    length: Length = field(default_factory=Length)

    def key(self, name: str) -> str:
        """The config key of one of its values, see `config.phases.key_of`."""
        return key_of(self.name, name)

    def describe(self) -> str:
        """What it learns and how, in a line for people."""
        objective = describe_objective(self.objective, dataclasses.asdict(self.masking))
        mix = ", ".join(f"{share:g} {name}" for name, share in self.mix.items())
        what = "pairs" if self.rows.mode == "pairs" else "rows"
        size, length = self.batch.global_size, self.rows.max_length
        parts = [objective, f"{size:,} {what} of {length:,} tokens per step", f"of {mix}" if mix else ""]
        parts.append(f"learning rate {self.rate.peak:.3g}, {self.rate.schedule}")
        return ", ".join(filter(None, parts))


def describe_objective(objective: str, masking: Mapping[str, Any]) -> str:
    """An objective, with the masking rate if it masks.

    Args:
        objective: Its name.
        masking: {key: value} of the section `masking`.
    """
    if objective not in ("masked_lm", "contrastive_masked_lm"):
        return objective
    last = masking["final_probability"]
    rate = f"{masking['probability']:.3g}" + ("" if last is None else f" to {last:.3g}")
    return f"{objective} at {rate} of the {masking['unit']}s"


def num_steps(phases: Sequence[PhaseSpec]) -> int | None:
    """Steps of several phases; None if those of one are not known."""
    counts = [phase.length.steps for phase in phases]
    return None if None in counts else sum(count or 0 for count in counts)
