"""A stage of a job: what is being done, how far it is, how fast, and until when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from mlm_dist.terminal.console import GAP, fitting

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")

BEATS = (10.0, 20.0, 40.0, 60.0)  # seconds between lines of a stage that are not on a terminal; the last repeats
SHORTEST, LONGEST = 8, 32  # columns of a bar


class Stage:
    """A stage, which is told what is done of it.

    Args:
        name: What is done, in one or two words.
        total: How much there is to do; None if that is not known.
        unit: What is counted.
        first: How much was done before.

    Attributes:
        done: How much is done.
        details: More to show, the most important first.
        result: What to leave behind instead of the count.
    """

    def __init__(self, name: str, total: float | None = None, unit: str = "", first: float = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self._first = first
        self.details: tuple[str, ...] = ()
        self.result: str | None = None
        self._lock = threading.Lock()
        self._began = self._said = self._since = time.perf_counter()
        self._beats = 0

    def measure_from_here(self) -> None:
        """Take what was done and how long it took so far as no guide to the rest."""
        self._first, self._since = self.done, time.perf_counter()

    def advance(self, more: float = 1) -> None:
        """Count what is done; from any thread."""
        with self._lock:
            self.done += more

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each counts when it is done."""
        for item in items:
            yield item
            self.advance()

    @property
    def seconds(self) -> float:
        """The time since the stage began."""
        return time.perf_counter() - self._began

    @property
    def rate(self) -> float:
        """What is done per second, in its unit."""
        return (self.done - self._first) / max(time.perf_counter() - self._since, 1e-9)

    def is_due(self, seconds: float | None = None) -> bool:
        """Whether it is time for a line of a log, and if so, count it as said.

        Args:
            seconds: The time between lines; by default it grows.
        """
        now = time.perf_counter()
        wanted = BEATS[min(self._beats, len(BEATS) - 1)] if seconds is None else seconds if self._beats else 0.0
        is_due = now - self._said >= wanted
        if is_due:
            self.say()
        return is_due

    def say(self) -> None:
        """Note that a line about the stage is logged."""
        self._said = time.perf_counter()
        self._beats += 1

    def progress(self) -> list[str]:
        """Name, count, percentage, time left and time used: what every width has room for."""
        elapsed = duration(self.seconds)
        if not self.total:
            count = f"{_number(self.done)} {self.unit}".strip() if self.done else ""
            rate = f"{_number(self.rate)}/s" if self.done and self.unit else ""
            return [part for part in (self.name, count, rate, elapsed) if part]
        whole = _number(self.total)
        count = f"{_number(self.done).rjust(len(whole))}/{whole}"
        share = min(self.done / self.total, 1.0)
        left = (self.total - self.done) / self.rate if self.done > self._first else None
        eta = "-:--:--" if left is None else duration(max(left, 0.0))
        return [f"{self.name} {count}{' ' if self.unit else ''}{self.unit}", f"{share:4.0%}", f"ETA {eta}", elapsed]

    def line(self, width: int | None = None) -> str:
        """The stage in one line, without the details that do not fit.

        Args:
            width: Columns; None for those of the terminal, or all that a log has.
        """
        return fitting([*self.progress(), *self.details], width)

    def left_behind(self) -> str:
        """The line of a stage that is complete: what, how much, and how long it took."""
        result = self.result
        if result is None:
            result = f"{_number(self.done, ',')} {self.unit}" if self.unit else ""
        took = f"{self.seconds:.1f} s" if self.seconds < 60 else duration(self.seconds)
        return f"{self.name:<22}{result}{', ' if result else ''}{took}"

    def text(self, width: int) -> Text:
        """The line of a terminal, with a bar in the room that is left.

        Args:
            width: Columns of the terminal; the last stays free, because it would begin a new row on some.
        """
        from rich.text import Text

        width -= 1
        begin = len(GAP.join(self.progress()))
        room = width - begin - len(GAP)
        # The first detail is more important than a bar; a bar is more important than the others.
        first = len(GAP) + len(self.details[0]) if self.details else 0
        reserved = len(GAP) + SHORTEST if self.total and room >= SHORTEST + first else 0
        line = self.line(width - reserved)
        if not self.total or not reserved:
            return Text(line[:width], no_wrap=True)
        columns = min(LONGEST, width - len(line) - len(GAP))
        full = int(columns * min(self.done / self.total, 1.0))
        return Text.assemble(
            (line[: len(self.name)], "bold"),
            line[len(self.name) : begin],
            (GAP + "━" * full, "green"),
            ("━" * (columns - full), "bright_black"),
            line[begin:],
            no_wrap=True,
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 0:01:23."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _number(value: float, separator: str = "") -> str:
    return f"{value:{separator}d}" if isinstance(value, int) else f"{value:{separator}.1f}"
