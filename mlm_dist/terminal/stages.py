"""Stages of a job, shown while they run; on rank 0 of a program.

On a terminal each running stage is a line that moves. Elsewhere a line is logged now and then: after 10, 30 and 70
seconds, and then once a minute. A stage leaves one line: what was done, how much, and how long it took.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlm_dist import ranks
from mlm_dist.terminal.console import Output, console, is_log_shown, output
from mlm_dist.terminal.stage import Stage

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

SOON = 0.2  # seconds before a stage appears on a terminal

logger = logging.getLogger(__name__)


class _Display:
    """Shows the running stages: the outermost first."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []
        self._live: Any = None
        self._ended = threading.Event()
        self.lengths: list[int] = []  # of the lines that are shown

    def add(self, stage: Stage) -> None:
        self._stages.append(stage)
        if len(self._stages) == 1:
            self._start()

    def remove(self, stage: Stage) -> None:
        self._stages.remove(stage)
        if not self._stages:
            self._stop()

    def _start(self) -> None:
        if output is Output.TERMINAL:
            self._live = _live(self)
            self._live.start()
            console.show_cursor()  # a process that is killed could not bring it back
        else:
            self._ended = threading.Event()
            threading.Thread(target=self._beat, args=(self._ended,), daemon=True).start()

    def _stop(self) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            for stage in self._stages[-1:]:
                if stage.is_due():
                    logger.info(stage.line())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.lengths = []
        for stage in [*self._stages]:
            if stage.seconds >= SOON:
                yield (text := stage.text(options.max_width))
                self.lengths.append(text.cell_len)


def _live(display: _Display) -> Any:
    """A display that moves, also if the terminal becomes narrower meanwhile, which breaks the lines that are shown."""
    from rich.live import Live

    class Resized(Live):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            shape, width = self._live_render._shape, max(console.width, 1)
            if shape is not None and max(display.lengths, default=0) > width:
                self._live_render._shape = shape[0], sum(max(1, -(-length // width)) for length in display.lengths)
            return super().process_renderables(renderables)

    return Resized(display, console=console, refresh_per_second=5, transient=True)


_display = _Display()


@contextlib.contextmanager
def stage(
    name: str, total: float | None = None, unit: str = "", *, first: float = 0, leaves_after: float | None = 0.0
) -> Iterator[Stage]:
    """Show a stage inside, and leave one line if it succeeds; on rank 0 of a program, else nothing is shown.

    Args:
        name: What is done, in one or two words.
        total: How much there is to do; None if that is not known.
        unit: What is counted.
        first: How much was done before.
        leaves_after: Seconds from which it leaves a line; None for a stage that is followed by a line of its own.
    """
    one = Stage(name, total, unit, first)
    if not (is_log_shown() and ranks.is_main()):
        yield one
        return
    _display.add(one)
    try:
        yield one
    finally:
        _display.remove(one)
    if leaves_after is not None and one.seconds >= leaves_after:
        logger.info(one.left_behind())
