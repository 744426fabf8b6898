"""Stopping a run by a signal: all ranks stop after the same step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from types import FrameType, TracebackType
from typing import Any

import torch

from mlm_dist import interruption
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import Interrupted, MlmDistError
from mlm_dist.training.step import StepResult

STEPS_BEHIND = 2  # that a GPU may be when its flags are read


class StopSignal:
    """Whether this process was asked to stop. A context manager: handlers are set inside, and restored after it.

    The signal handler only sets a flag; all ranks agree on what follows. A second Ctrl-C ends a program at once, and
    raises KeyboardInterrupt in a notebook. Outside the main thread Python allows no handlers, so signals keep their
    effect there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._pending: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        self._handlers: dict[int, Any] = {}
        self._first: float | None = None
        self._has_stepped = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignal:
        self._stack.enter_context(interruption.training())
        self.requested = interruption.is_interrupted()  # a library may have caught it
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._set_flag) for number in interruption.handled()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()
        self._restore()
        if isinstance(error, Interrupted):
            interruption.leave()
        is_told = isinstance(error, MlmDistError) or not isinstance(error, Exception)
        if self.requested and not self._has_stepped and error is not None and not is_told:
            # Ctrl-C reaches compilers that the first step starts, too, and what they say is a consequence.
            raise Interrupted(interruption.NOTHING_SAVED) from error

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if handler is not None:  # None: it was not set from Python, and Python cannot set it again
                signal.signal(number, handler)

    def check(self, engine: Engine) -> None:
        """End the run if any rank was asked to stop before the first step; collective.

        Raises:
            Interrupted: A rank was asked to stop.
        """
        if engine.min(not self.requested) < 1:
            raise Interrupted(interruption.NOTHING_SAVED)

    def agreed(self, result: StepResult, *, is_logged: bool) -> bool:
        """Whether any rank was asked to stop; the same answer on all.

        On a GPU the flag is copied to the host after the step's own work and read some steps later, so that nothing
        waits for the device; at a step that is logged, the newest flag is read.
        """
        self._has_stepped, stop = True, result.stop
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
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._first is None:
                self._first = now
                interruption.announce()
            elif now - self._first > interruption.REPEAT_SECONDS:
                raise KeyboardInterrupt
        self.requested = True
