"""What can end a run early: a signal, and numbers that are not finite."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

import torch

from mlm_dist.errors import TrainingError
from mlm_dist.training.step import StepResult

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
MAX_SKIPPED_IN_A_ROW = 20
SPIKE_DEVIATIONS = 6.0
UPDATES_BEHIND = 2  # a GPU may be when its flags are read


class StopSignal:
    """Whether this process was asked to stop. The handler only takes note; what follows is agreed on by all."""

    def __init__(self) -> None:
        self.requested = False
        self._on_the_way: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        for number in SIGNALS:
            signal.signal(number, self._note)

    def agreed(self, result: StepResult, *, line_due: bool) -> bool:
        """Whether any process was asked to stop; the same answer on all.

        On a GPU the flag is copied out behind the update's own work and read some updates later, so that nothing waits
        for the device; where a line is due, the newest is read.
        """
        stop = result.stop
        if line_due or stop.device.type == "cpu":
            self._on_the_way.clear()
            return bool(stop)
        if stop.is_cuda:
            flag = torch.empty_like(stop, device="cpu", pin_memory=True)
            flag.copy_(stop, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._on_the_way.append((flag, copied))
        if len(self._on_the_way) <= UPDATES_BEHIND:
            return False
        flag, copied = self._on_the_way.popleft()
        copied.synchronize()
        return bool(flag)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class Guard:
    """Watches what updates did, without waiting for the device between two checks.

    Args:
        samples_of: Step -> the samples of its global batch, for messages.
        say: Takes a line for the person at the screen.
    """

    def __init__(self, samples_of: Callable[[int], Sequence[int]], say: Callable[[str], None]) -> None:
        self._samples_of, self._say = samples_of, say
        self._unchecked: list[tuple[int, torch.Tensor]] = []
        self._in_a_row = 0
        self._mean: float | None = None
        self._variance = 0.0

    def watch(self, step: int, result: StepResult) -> None:
        """Take note of update `step`, counted from 0."""
        self._unchecked.append((step, result.skipped))

    def check(self) -> int:
        """Look at all updates since the last check, and return how many of them were left out.

        Raises:
            TrainingError: Too many in a row were, up to the newest.
        """
        flags = torch.stack([flag for _, flag in self._unchecked]).tolist() if self._unchecked else []
        skipped = 0
        for (step, _), flag in zip(self._unchecked, flags, strict=True):
            self._in_a_row = self._in_a_row + 1 if flag else 0
            if flag:
                skipped += 1
                samples = ", ".join(map(str, self._samples_of(step)[:8]))
                self._say(
                    f"update {step + 1} was left out: its loss or gradient is not finite; its samples "
                    f"begin with {samples}"
                )
        last = self._unchecked[-1][0] + 1 if self._unchecked else 0
        self._unchecked.clear()
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self._in_a_row} updates in a row, up to update {last}, were not finite; nothing was saved "
                "since. Lower optim.lr or optim.max_grad_norm, or train in bf16 instead of fp16, and run "
                "again from the last checkpoint"
            )
        return skipped

    def is_spike(self, loss: float | None) -> bool:
        """Whether a loss stands out from those before it by six standard deviations (moving, over some 20 values)."""
        if loss is None:
            return False
        if self._mean is None:
            self._mean, self._variance = loss, (0.1 * loss) ** 2
            return False
        distance = loss - self._mean
        spike: bool = distance > SPIKE_DEVIATIONS * math.sqrt(self._variance)
        self._mean += 0.1 * distance
        self._variance = 0.9 * (self._variance + 0.1 * distance * distance)
        return spike
