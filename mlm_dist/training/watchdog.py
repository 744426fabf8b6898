"""The watchdog: a run that makes no progress writes the stacks of all ranks and ends.

A rank that hangs, or that waits for one that does, is inside a collective, where Python handles nothing. So threads
watch the progress that the main thread counts. Ranks tell each other through files: the process that serves a store may
be the one that hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from mlm_dist.engine.protocol import Engine
from mlm_dist.stopwatch import Stopwatch

TICK_SECONDS = 1.0
WRITE_SECONDS = 20.0  # that the ranks have to write their stacks
EXIT_CODE = 1
_NAME = "stacks-rank-{}.txt"


class Watchdog:
    """Ends this process if its engine makes no progress; as a context, which every rank enters.

    Args:
        engine: The engine.
        minutes: The time without progress; None never ends it.
        folder: Where all ranks write their stacks, on a disk that they share.
        step: The steps done.
    """

    def __init__(self, engine: Engine, minutes: float | None, folder: Path, step: Callable[[], int]) -> None:
        self._engine, self._minutes, self._folder, self._step = engine, minutes, folder, step
        self._ended = threading.Event()
        self._fires = threading.Lock()

    def __enter__(self) -> Watchdog:
        if self._minutes is not None:
            for watch in (self._watch_this_rank, self._watch_others):
                threading.Thread(target=watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()

    def _watch_this_rank(self) -> None:
        assert self._minutes is not None
        limit, progress = 60 * self._minutes, self._engine.progress
        waited, since, count = Stopwatch(), 0.0, -1
        while not self._ended.wait(min(TICK_SECONDS, limit / 10)):
            now = waited.seconds()
            if progress.count != count or progress.waits_for_main:  # rank 0 watches over its own work
                since, count = now, progress.count
            elif now - since > limit:
                self._fire()

    def _watch_others(self) -> None:
        """Write stacks as soon as another rank has; a thread of its own, because the disk may be what hangs."""
        while not self._ended.wait(TICK_SECONDS):
            with contextlib.suppress(OSError):
                if self._folder.is_dir() and any(self._folder.glob(_NAME.format("*"))):
                    self._fire()

    def _fire(self) -> None:
        if not self._fires.acquire(blocking=False):
            self._ended.wait()
            return
        faulthandler.dump_traceback(2, all_threads=True)
        reports: dict[int, dict[str, Any]] = {}
        writer = threading.Thread(target=self._exchange, args=(reports,), daemon=True)
        writer.start()
        writer.join(2 * WRITE_SECONDS)
        if min(reports, default=self._engine.rank) == self._engine.rank:
            print(f"error: {self._verdict(dict(reports))}", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)

    def _exchange(self, reports: dict[int, dict[str, Any]]) -> None:
        """Write the stacks of this rank, and read what the others write."""
        rank, waited = self._engine.rank, Stopwatch()
        mine = {"rank": rank, "host": socket.gethostname(), "step": self._step(), "count": self._engine.progress.count}
        self._folder.mkdir(exist_ok=True)
        path = self._folder / _NAME.format(rank)
        with open(path.with_suffix(".partial"), "w", encoding="utf-8") as file:
            file.write(json.dumps(mine) + "\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        path.with_suffix(".partial").rename(path)
        while len(reports) < self._engine.world_size and waited.seconds() < WRITE_SECONDS:
            for other in range(self._engine.world_size):
                with contextlib.suppress(OSError, ValueError):
                    text = (self._folder / _NAME.format(other)).read_text("utf-8")
                    reports[other] = json.loads(text.splitlines()[0])
            self._ended.wait(0.1)

    def _verdict(self, reports: dict[int, dict[str, Any]]) -> str:
        missing = [rank for rank in range(self._engine.world_size) if rank not in reports]
        counts = {rank: report["count"] for rank, report in reports.items()}
        behind = [rank for rank, count in counts.items() if count < max(counts.values())]
        if missing:
            who = f"rank {', '.join(map(str, missing))} does not answer"
        elif behind:
            who = ", ".join(f"rank {rank} on {reports[rank]['host']}" for rank in behind) + " is behind"
        else:
            who = "all ranks are at the same point" if len(counts) > 1 else "the process hangs"
        return (
            f"no progress for {self._minutes:g} minutes (watchdog.minutes) after step {self._step():,}: {who}; the "
            f"stacks of all threads are in {self._folder}"
        )


def archive(folder: Path) -> None:
    """Put the stacks of an earlier launch away, so that they do not end this one; on rank 0, before training."""
    for path in folder.glob(_NAME.format("*")):
        path.rename(path.with_name(f"previous-{path.name}"))
