"""Stopping a run by a signal: all ranks stop after the same step."""

from __future__ import annotations

import signal
import threading
from collections import deque
from types import FrameType, TracebackType
from typing import Any

import torch

from mlm_dist.training.step import StepResult

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STEPS_BEHIND = 2  # that a GPU may be when its flags are read


class StopSignal:
    """Whether this process was asked to stop. A context manager: handlers are set inside, and restored after it.

    The signal handler only sets a flag; all ranks agree on what follows. Outside the main thread Python allows no
    handlers, so signals keep their effect there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._pending: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._set_flag) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            if handler is not None:  # None: it was not set from Python, and Python cannot set it again
                signal.signal(number, handler)

    def agreed(self, result: StepResult, *, is_logged: bool) -> bool:
        """Whether any rank was asked to stop; the same answer on all.

        On a GPU the flag is copied to the host after the step's own work and read some steps later, so that nothing
        waits for the device; at a step that is logged, the newest flag is read.
        """
        stop = result.stop
        if is_logged or stop.device.type == "cpu":
            self._pending.clear()
            return bool(stop)
        if stop.is_cuda:
            flag = torch.empty_like(stop, device="cpu", pin_memory=True)
            flag.copy_(stop, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._pending.append((flag, copied))
        if len(self._pending) <= STEPS_BEHIND:
            return False
        flag, copied = self._pending.popleft()
        copied.synchronize()
        return bool(flag)

    def _set_flag(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
