"""The number of steps of a phase: known before its first, or estimated on the way for a duration in hours."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from mlm_dist.checkpoint.state import TrainState
from mlm_dist.spec import PhaseSpec
from mlm_dist.training.step import StepResult

UNKNOWN = 1 << 40  # steps of a phase whose duration is in hours, before the first estimate
FIRST_ESTIMATE = 4  # steps of this process before the first estimate; the very first may compile something


class PhaseLength:
    """The number of steps of a phase; every rank makes one, and it is the same on all.

    For a duration in hours the number is estimated again at every log line, and after 4, 8, 16 ... steps: the steps
    done, and those that fit into the remaining time at the speed of the newer half of this process's steps. The clock
    is that of rank 0, sent to all ranks with the counts of a step. The learning rate is a function of the step and the
    newest estimate, which train lines and checkpoints record; before the first estimate the end counts as infinitely
    far away. The nearer the end, the smaller the possible error, so a phase ends at its duration with the last rate of
    its schedule, however fast the machine is or becomes.

    Args:
        phase: The phase.
        every: Steps between log lines.
        state: The state that this process begins the phase, or resumes it, with.
        is_main: Whether this process has the clock.

    Attributes:
        first: Steps of the run before the phase.
        steps: Steps of the phase.
    """

    def __init__(self, phase: PhaseSpec, every: int, state: TrainState, *, is_main: bool) -> None:
        self.first = state.phases[-1].step
        self.steps = UNKNOWN if phase.length.steps is None else phase.length.steps
        self._hours = phase.duration.value if phase.duration.unit == "hours" else None
        done = state.step - self.first
        self._every, self._resumed, self._used, self._is_main = every, done, state.seconds, is_main
        self._is_known = self._hours is None
        self._marks: deque[tuple[int, float]] = deque()  # (steps done, seconds) to measure the speed from
        self._began = time.perf_counter()
        if self._hours is not None and state.estimate is not None:
            hours, steps = state.estimate
            same = hours == self._hours
            self._set(steps if same else round(done * 3600 * self._hours / state.seconds), done)

    @property
    def end(self) -> int:
        """Steps of the run when the phase ends."""
        return self.first + self.steps

    @property
    def fixed_end(self) -> int | None:
        """The same, if it is known before the first step."""
        return self.end if self._hours is None else None

    def begin(self) -> None:
        """Start the clock, just before the first step."""
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """For a duration in hours: the time used up to now; else 0."""
        return 0.0 if self._hours is None else self._used + time.perf_counter() - self._began

    @property
    def milliseconds(self) -> int:
        """What this process adds to the clock that all ranks receive."""
        return round(1000 * self.seconds) if self._is_main else 0

    def observe(self, step: int, result: StepResult) -> None:
        """Update the estimate after `step` steps of the run, if it is time to."""
        step -= self.first
        done = step - self._resumed
        if self._hours is None or step >= self.steps or (step % self._every and done & (done - 1)):
            return
        # The clock was read when the step began, when one fewer was done.
        seconds = int(result.milliseconds) / 1000
        self._marks.append((step, seconds))
        while len(self._marks) > 1 and 2 * (self._marks[1][0] - self._resumed) <= done:
            self._marks.popleft()
        at, before = self._marks[0]
        if done >= FIRST_ESTIMATE and seconds > before:
            remaining = (3600 * self._hours - seconds) * (step - at) / (seconds - before)
            self._set(round(step - 1 + remaining), step)

    @property
    def estimate(self) -> tuple[float, int] | None:
        """(hours, steps they are estimated to hold) for a checkpoint; None without an estimate."""
        return (self._hours, self.steps) if self._hours is not None and self._is_known else None

    @property
    def metrics(self) -> dict[str, Any]:
        """The estimated end and the hours used; nothing if the end is known before the first step."""
        if self._hours is None:
            return {}
        return {"end": self.end if self._is_known else None, "hours": round(self.seconds / 3600, 5)}

    def _set(self, steps: int, step: int) -> None:
        self.steps, self._is_known = max(steps, step), True
