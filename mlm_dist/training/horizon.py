"""How many updates a run has: known beforehand, or estimated on the way where it has a number of hours."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from mlm_dist.checkpoint.format import RunState
from mlm_dist.config import Config, Duration
from mlm_dist.training.step import StepResult

FIRST_ESTIMATE = 4  # updates of this process after which there is one; the very first may compile something


class Horizon:
    """The updates of a run. Made and called on every process, and the same on all.

    With `optim.hours` the number is estimated anew at every log line, and after 4, 8, 16 ... updates: those done, and
    what the hours left hold at the speed of the newer half of the updates of this process. The clock is the main
    process's, told to all with the counts of an update. The learning rate is a function of the step and the newest
    estimate, which train lines and checkpoints record; until there is one, the end is as good as infinitely far away.
    The nearer the end, the less an estimate can be wrong, so that a run ends at its hours, its rate at zero, however
    fast the machine is or becomes.

    Args:
        config: The run.
        updates: Updates there will be, where the config says so.
        state: Where the run goes on from.
        is_main: Whether this process has the clock.
    """

    def __init__(self, config: Config, updates: int, state: RunState, *, is_main: bool) -> None:
        self.updates = updates
        duration = Duration.parse(config.optim.duration)
        self._hours = duration.value if duration.unit == "hours" else None
        self._every = config.logging.every
        self._first, self._used, self._is_main = state.step, state.seconds, is_main
        self._is_known = self._hours is None
        self._marks: deque[tuple[int, float]] = deque()  # (updates done, seconds) to measure the speed from
        self._began = time.perf_counter()
        if self._hours is not None and state.horizon is not None:
            hours, known = state.horizon
            same = hours == self._hours
            self._set(known if same else round(state.step * 3600 * self._hours / state.seconds), state.step)

    @property
    def fixed(self) -> int | None:
        """The updates, where they are known beforehand."""
        return self.updates if self._hours is None else None

    def describe(self, samples: int, warmup: int) -> dict[str, Any]:
        """How long the run will be, for people.

        Args:
            samples: Those of a run whose updates are known beforehand.
            warmup: Updates to warm up, of such a run.
        """
        if self._hours is not None:
            return {"hours": self._hours}
        return {"samples": samples, "steps": self.updates, "warmup_steps": warmup}

    def begin(self) -> None:
        """Start the clock: the first update comes next."""
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds used since the run began, those before it was interrupted included; of this process's clock.

        0 where the run does not end by the clock: what it leaves behind shall not depend on how fast it was.
        """
        return 0.0 if self._hours is None else self._used + time.perf_counter() - self._began

    @property
    def milliseconds_to_tell(self) -> int:
        """What this process adds to what all are told."""
        return round(1000 * self.seconds) if self._is_main else 0

    def look(self, step: int, result: StepResult) -> None:
        """Estimate the updates anew, if it is time to, after `step` of them."""
        done = step - self._first
        if self._hours is None or step >= self.updates or (step % self._every and done & (done - 1)):
            return
        # The clock was told when the update began, so one fewer was done.
        seconds = int(result.milliseconds) / 1000
        self._marks.append((step, seconds))
        while len(self._marks) > 1 and 2 * (self._marks[1][0] - self._first) <= done:
            self._marks.popleft()
        at, before = self._marks[0]
        if done >= FIRST_ESTIMATE and seconds > before:
            left = (3600 * self._hours - seconds) * (step - at) / (seconds - before)
            self._set(round(step - 1 + left), step)

    @property
    def estimate(self) -> tuple[float, int] | None:
        """(hours, updates they will hold) for a checkpoint; None where there is no such thing."""
        return (self._hours, self.updates) if self._hours is not None and self._is_known else None

    @property
    def facts(self) -> dict[str, Any]:
        """What a train line has to record; nothing where the updates are known beforehand."""
        if self._hours is None:
            return {}
        return {"steps": self.updates if self._is_known else None, "hours": round(self.seconds / 3600, 5)}

    def _set(self, updates: int, step: int) -> None:
        self.updates, self._is_known = max(updates, step), True
