"""The phases of a run: what each trains on, begun one after the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from mlm_dist.batches.block_order import GROUP_TOKENS, PAIRS_SHUFFLED, Blocks
from mlm_dist.batches.loader import Stream, Target, TrainingBatches
from mlm_dist.batches.mixture import Order, mixed_order
from mlm_dist.batches.ramp import Ramp
from mlm_dist.batches.upcoming_blocks import UpcomingBlocks
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.corpora import Corpora
from mlm_dist.corpus.stored_rows import StoredRows
from mlm_dist.engine.protocol import Engine
from mlm_dist.model import rotary
from mlm_dist.objectives.protocol import Objective
from mlm_dist.optim.schedule import learning_rate
from mlm_dist.spec import PhaseSpec, Spec, num_steps
from mlm_dist.training.phase_length import PhaseLength
from mlm_dist.training.step import example_loss
from mlm_dist.training.task import Task


@dataclass(frozen=True)
class Phase:
    """A phase that has begun.

    Args:
        spec: What it is.
        objective: What is learnt.
        batches: The micro-batches of this rank, by step of the run.
        length: Its number of steps.
    """

    spec: PhaseSpec
    objective: Objective
    batches: TrainingBatches
    length: PhaseLength

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of the run, from 0."""
        return learning_rate(step - self.length.first, self.spec.rate, self.length.steps)


class Phases:
    """The phases of a run; every rank makes one.

    Args:
        spec: The run, with lengths and micro-batches.
        task: What they train.
        corpora: The corpora.
        engine: The engine.
    """

    def __init__(self, spec: Spec, task: Task, corpora: Corpora, engine: Engine) -> None:
        self._spec, self._task, self._corpora, self._engine = spec, task, corpora, engine
        self._theta = rotary.theta_of(task.module.model.config)
        self._begun: Phase | None = None

    def begin(self, state: TrainState) -> Phase:
        """Begin the newest phase of a state, or resume it."""
        self.close()
        index, spec, engine = len(state.phases) - 1, self._spec, self._engine
        phase, objective, start = spec.phases[index], self._task.objectives[index], state.phases[index]
        rows = self._corpora.of_rows[phase.rows].rows("train")
        order = self._order(state)
        upcoming = UpcomingBlocks(order, rows) if isinstance(rows, StoredRows) else None
        stream = Stream(rows, order, phase.length.samples, start.step, start.samples, upcoming)
        batches = TrainingBatches(
            *(stream, objective.corruption, phase.batch, Ramp(phase.batch, phase.rows.max_length)),
            Target(engine.rank, engine.device, spec.has_static_shapes),
        )
        length = PhaseLength(phase, spec.logging.every, state, is_main=engine.is_main)
        engine.begin_phase(index)
        rotary.set_theta(self._task.module.model, phase.rope_theta or self._theta)
        self._begun = Phase(phase, objective, batches, length)
        return self._begun

    def total(self, state: TrainState, end: int | None) -> int | None:
        """Steps of the run if the newest phase ends after so many; None if it, or a later one, has no known end."""
        later = num_steps(self._spec.phases[len(state.phases) :])
        return None if end is None or later is None else end + later

    def facts(self, state: TrainState) -> dict[str, Any]:
        """What a train line records of the newest phase: its name, and the steps of a run with a phase in hours."""
        begun = self._phase
        length = begun.length.metrics
        end = length.pop("end", begun.length.fixed_end)
        steps = {} if self._spec.num_steps is not None else {"steps": self.total(state, end)}
        return ({"phase": begun.spec.name} if begun.spec.name else {}) | steps | length

    def samples(self, step: int) -> list[int]:
        """The samples of a step of the newest phase, of all processes."""
        return self._phase.batches.samples(step)

    @property
    def _phase(self) -> Phase:
        assert self._begun is not None
        return self._begun

    def example_loss(self) -> torch.Tensor:
        """The loss of the first micro-batch of the run by the engine's model, undivided."""
        phase = self.begin(TrainState.new(self._engine.device))
        return example_loss(self._engine, phase.objective, phase.batches[0][0])

    def _order(self, state: TrainState) -> Order:
        """The order of the newest phase, which continues the orders of earlier phases with the same rows."""
        index, starts = len(state.phases) - 1, [start.samples for start in state.phases]
        phases, kind = self._spec.phases, self._spec.phases[index].rows
        corpus, taken = self._corpora.of_rows[kind], Counter[str]()
        parts, blocks = corpus.source_rows("train"), None
        if self._spec.corpus.documents.rows_from == "store":
            blocks = Blocks(corpus.rows("train").block_sizes, max(1, GROUP_TOKENS // kind.max_length))
        elif corpus.has_pairs:
            blocks = Blocks(corpus.pairs_together("train"), PAIRS_SHUFFLED)
        for i in range(index):
            if phases[i].rows == kind:
                order = mixed_order(parts, phases[i].mix, self._spec.seed, taken, blocks)
                taken.update(order.counts(starts[i + 1] - starts[i]))
        return mixed_order(parts, phases[index].mix, self._spec.seed, taken, blocks)

    def close(self) -> None:
        """End the thread of the phase that has begun."""
        if self._begun is not None:
            self._begun.batches.close()

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
