"""A stopwatch that stands still while its process does."""

from __future__ import annotations

import time


class Stopwatch:
    """The time that passes while this process runs; read it often.

    A process that was stopped (SIGSTOP, a suspended machine, Ctrl-Z) cannot know what others did meanwhile, so a long
    time between two readings counts as a short one. The clock is monotonic: setting the time of day changes nothing.
    """

    MOST = 1.0  # seconds between two readings that count

    def __init__(self) -> None:
        self._total, self._last = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        now = time.monotonic()
        self._total += min(now - self._last, self.MOST)
        self._last = now
        return self._total
