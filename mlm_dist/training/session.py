"""A session: one process's part of a run, from its start or a resume to its end, and the records it writes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlm_dist import ranks
from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.host_buffer import HostBuffer
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.engine.protocol import Engine
from mlm_dist.evaluation.validation_set import ValidationSet
from mlm_dist.model.compilation import CompileStats
from mlm_dist.objectives.figures import Validation
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.training import early_stop
from mlm_dist.training.averages import validate_averages
from mlm_dist.training.callbacks import Callback, Callbacks
from mlm_dist.training.due import Due
from mlm_dist.training.facts import average_losses, end_facts, start_facts
from mlm_dist.training.metrics import Metrics
from mlm_dist.training.phases import Phase, Phases
from mlm_dist.training.progress import TrainingProgress
from mlm_dist.training.result import History, TrainResult
from mlm_dist.training.skipped_steps import SkippedSteps
from mlm_dist.training.step import StepResult
from mlm_dist.training.task import Task
from mlm_dist.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


class Session:
    """What the loop does besides its steps; every rank makes one.

    Args:
        spec: The run, with its length and its micro-batch.
        task: What it trains.
        engine: The engine, set up.
        phases: Its phases.
        validation_set: The validation set.
        run_dir: The run directory.
        state: The state that the session starts from.

    Attributes:
        averaged: As `export.average`; at the end the number of checkpoints that were averaged, which may be smaller.
    """

    def __init__(
        self,
        spec: Spec,
        task: Task,
        engine: Engine,
        phases: Phases,
        validation_set: ValidationSet,
        run_dir: RunDir,
        state: TrainState,
    ) -> None:
        self.spec, self.task, self.run_dir = spec, task, run_dir
        self._engine, self._phases, self._validation_set = engine, phases, validation_set
        self._checkpoints = Checkpoints(
            *(run_dir.checkpoints, spec.checkpoint, task.identity, spec.batches, HostBuffer.of(engine))
        )
        best = early_stop.comparable(state.best, validation_set.description)
        self.state = dataclasses.replace(state, best=self._checkpoints.known_best(best))
        self._phase = phases.begin(self.state)
        self._metrics = Metrics(engine, run_dir.metrics, state)
        self._skipped = SkippedSteps(phases.samples)
        self._history = History()
        self._progress = TrainingProgress(
            phases.total(self.state, self._phase.length.fixed_end), state.step, is_main=engine.is_main
        )
        self._callbacks: Callback = Callbacks([])
        self._compiled = CompileStats(enabled=False)
        self._baseline: dict[str, Any] = {}
        self._averages: dict[str, dict[str, Any]] = {}
        self.averaged = spec.export.average
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def running(self, compiled: CompileStats, callbacks: Sequence[Callback]) -> Iterator[None]:
        """Write the `start` line and show progress inside; validate a new run, and averages of a finished one."""
        self._compiled, engine = compiled, self._engine
        compiled.pause(self._metrics.paused)
        self._callbacks = Callbacks([self._history, self._progress, *callbacks])
        try:
            self._baseline = self._validation_set.baseline(self.task.validated)
            facts = start_facts(self.spec, self.task) | self._baseline
            self._progress.show(facts)
            self._metrics.start(**facts, resumed_from=self.state.step)
            self._began = time.perf_counter()
            engine.on_main(lambda: self._checkpoints.tidy(self.state))
            early_stop.report(self.state, self.spec.validation.patience)
            with Watchdog(engine, self.spec.watchdog.minutes, self.run_dir.logs, lambda: self.state.step):
                with self._progress:
                    if self.state.step == 0:
                        self.validate()
                    if not (self._is_phase_done or self._is_early_stop):
                        self._progress.begin_phase(self._phase.spec, self.state.step)
                    self._phase.length.begin()
                    yield
                self._checkpoints.end(engine)
                if self.is_finished:
                    self._validate_averages()
            self._callbacks.on_end(self.state.step, is_finished=self.is_finished)
        except BaseException:
            self._checkpoints.wait()
            self._metrics.close()
            raise
        finally:
            compiled.close()

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete: all steps of all phases are done, or its patience is used up."""
        is_last = len(self.state.phases) == len(self.spec.phases)
        return (is_last and self._is_phase_done) or self._is_early_stop

    @property
    def _is_phase_done(self) -> bool:
        return self.state.step >= self._phase.length.end

    def phase_of_step(self) -> Phase:
        """The phase of the next step, which begins if the one before it has ended."""
        if self._is_phase_done:
            self._skipped.report(self.state, self._last_good)  # of steps of the phase that has ended
            self.state = self.state.in_next_phase()
            self._phase = self._phases.begin(self.state)
            self._progress.begin_phase(self._phase.spec, self.state.step)
        return self._phase

    @property
    def _is_early_stop(self) -> bool:
        return self.state.best.ends_training(self.spec.validation.patience)

    def after(self, result: StepResult) -> Due:
        """Record a step, without waiting for the device, and say what is due."""
        step = self.state.step
        self._skipped.add(step, result)
        samples = self._phase.batches.samples_before(step + 1)
        self.state = self.state.after(samples, result.num_tokens, result.skipped)
        self._phase.length.observe(self.state.step, result)
        return Due(self.spec, self.state.step, self._phase.length.end)

    def log(self, result: StepResult, lr: float, *, is_due: bool) -> None:
        """Write a train line if it is due, which waits for the device, and call the callbacks; collective."""
        line = None
        if is_due:
            self._skipped.report(self.state, self._last_good)
            self._compiled.log()
            line = self._metrics.train_line(
                self.state, result, self._phase.objective.terms, lr, self._phases.facts(self.state)
            )
            self.state = self.state.logged(line["loss"])
        self._callbacks.on_step(self.state.step, line)

    def validate(self) -> None:
        """Validate, if there is a validation set; collective."""
        step = self.state.step
        with self._metrics.paused():
            if (result := self._evaluate()) is None:
                return
            line = self._metrics.validation_line(step, result)
            if not self._phase.objective.corruption.is_causal:  # which unlearns what the validation measures
                self.state = dataclasses.replace(self.state, best=self.state.best.after(step, result.criterion))
            self._callbacks.on_validation(step, line)

    def _evaluate(self) -> Validation | None:
        if not len(self._validation_set):
            return None
        micro_size, is_static = self.spec.validation_micro_size, self.spec.has_static_shapes
        return self._validation_set.evaluate(self._engine, self.task.validated, micro_size, static=is_static)

    def _validate_averages(self) -> None:
        """Validate the averages of the weights, and leave the weights to export in the model; collective."""
        for facts, result in validate_averages(self.spec, self._engine, self.run_dir.checkpoints, self._evaluate):
            self.averaged = facts.get("checkpoints", self.averaged)
            if result is not None:
                line = {"step": self.state.step, **facts, **result.figures()}
                self._averages[facts["average"]] = line
                self._metrics.average_line(line)

    def save(self, *, stop: bool = False) -> None:
        """Save a checkpoint; collective.

        Within a streak of skipped steps nothing has changed since its beginning, and nothing is saved, except for the
        end of a phase or of the run, a stop or the best validation.

        Args:
            stop: Whether the run stops after it.
        """
        with self._metrics.paused():
            self._skipped.report(self.state, self._last_good)
            is_end = self._is_phase_done or self._is_early_stop
            is_needed = stop or is_end or self.state.best.step == self.state.step
            if int(self.state.skipped_in_a_row) and not is_needed:
                return
            length = self._phase.length
            self.state = dataclasses.replace(self.state, seconds=length.seconds, estimate=length.estimate)
            self._metrics.sync()
            self._checkpoints.save(self._engine, self.state)
            step = self.state.step
            self._callbacks.on_checkpoint(step, self.run_dir.checkpoints / format.name_of(step))

    def _last_good(self) -> Path | None:
        return self._checkpoints.before_divergence(self.state.divergence.good_step)

    def end(self) -> TrainResult:
        """Write the `end` line, and return the result."""
        state, losses = self.state, self._metrics.validation_losses
        if state.divergence.has_begun and ranks.is_main():
            path = self._last_good()
            logger.warning(
                "training has diverged: its loss has not come back since step %s; %s with a lower optim.lr",
                f"{state.divergence.good_step:,}",
                "train again" if path is None else f"continue with --checkpoint.resume {path},",
            )
        result = TrainResult(
            step=state.step,
            is_finished=self.is_finished,
            losses=self._history.losses,
            validation=self._history.validation,
            unigram_loss=self._baseline.get("unigram_loss"),
            best=state.best,
            exported_best=self.spec.export.checkpoint == "best",
            averages=self._averages,
            exported_average=self.spec.export.average_name,
            run_dir=self.run_dir,
        )
        if self.is_finished:
            self._metrics.results(state, average_losses(self._averages))
        keeps_best = self.spec.checkpoint.keep_best
        self._metrics.end(
            seconds=round(time.perf_counter() - self._began, 1),
            compile_seconds=round(self._compiled.seconds, 1),
            skipped_steps=int(state.skipped_steps),
            **end_facts(result, losses, keeps_best=keeps_best, stopped_early=self._is_early_stop),
        )
        return result
