"""The parts of the start-up of `train.py` and `plan.py`: a job runs in this process, and its functions are timed.

    python benchmarks/startup_parts.py train BEGAN OUTPUT FLAGS...

BEGAN is `time.perf_counter()` of the process that starts this one, which on Linux is the same clock. `train` ends after
the first step. Writes {part: seconds} as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OTHER, IMPORTS, FIRST_STEP = "other", "Python and imports", "first step"


class Parts:
    """Seconds of parts. A part inside another one counts for itself only.

    Args:
        began: `time.perf_counter()` at which the first part, the imports, began.
    """

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._running, self._since = [IMPORTS], began

    def switch(self, name: str) -> None:
        """End the running part, and begin another one."""
        self._count()
        self._running[-1] = name

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside for a part."""
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def end(self) -> dict[str, float]:
        """All parts, in the order in which they began."""
        self._count()
        return self.seconds

    def _count(self) -> None:
        now, name = time.perf_counter(), self._running[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


# (module, attribute, part) of functions that are called one after the other or inside each other.
FUNCTIONS = {
    "train": [
        ("mlm_dist.runtime", "parse", "flags"),
        ("mlm_dist.train", "resolve", "resolve"),
        ("mlm_dist.train", "load_or_prepare", "corpus"),
        ("mlm_dist.train", "complete", "resolve"),
        ("mlm_dist.train", "Task.create", "model"),
        ("mlm_dist.train", "begin", "report before training"),
        ("mlm_dist.train", "fit_phases", "memory trial"),
        ("mlm_dist.train", "build_optimizer", "optimizer"),
        ("mlm_dist.train", "restore", "engine"),
        ("mlm_dist.train", "write_records", "records and trackers"),
        ("mlm_dist.train", "ValidationSet.baseline", "unigram baseline"),
        ("mlm_dist.train", "Session.validate", "validation before the first step"),
        ("mlm_dist.train", "train_step", FIRST_STEP),
        ("mlm_dist.train", "Session.log", FIRST_STEP),
    ],
    "plan": [
        ("mlm_dist.runtime", "parse", "flags"),
        ("mlm_dist.plan", "resolve", "resolve"),
        ("mlm_dist.plan", "pipeline.find", "corpus"),
        ("mlm_dist.plan", "complete", "resolve"),
        ("mlm_dist.plan", "step_time.seconds_per_step", "time of a step"),
    ],
}
# The same of context managers, of which entering counts.
CONTEXTS = {
    "train": [
        ("mlm_dist.train", "RunDir.claim", "run directory"),
        ("mlm_dist.train", "start_engine", "engine"),
    ],
    "plan": [],
}


def observe(job: str, parts: Parts, first_line: Callable[[], None]) -> None:
    """Replace the functions of a job by ones that count for their parts.

    Args:
        job: train or plan.
        parts: The parts.
        first_line: Called after the first line of metrics is written.
    """
    for module, attribute, name in FUNCTIONS[job]:
        holder, last, function = _look_up(module, attribute)
        setattr(holder, last, _timed(function, parts, name, first_line if attribute == "Session.log" else None))
    for module, attribute, name in CONTEXTS[job]:
        holder, last, function = _look_up(module, attribute)
        setattr(holder, last, _timed_context(function, parts, name))


def _look_up(module: str, attribute: str) -> tuple[Any, str, Callable[..., Any]]:
    holder = importlib.import_module(module)
    *path, last = attribute.split(".")
    for name in path:
        holder = getattr(holder, name)
    return holder, last, getattr(holder, last)


def _timed(function: Any, parts: Parts, name: str, after: Callable[[], None] | None) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        with parts.part(name):
            result = function(*arguments, **named)
        if after is not None:
            after()
        return result

    return staticmethod(timed) if hasattr(function, "__self__") else timed


def _timed_context(function: Any, parts: Parts, name: str) -> Callable[..., Any]:
    @contextlib.contextmanager
    def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
        context = function(*arguments, **named)
        with parts.part(name):
            value = context.__enter__()
        try:
            yield value
        finally:
            context.__exit__(*sys.exc_info())

    return staticmethod(timed) if hasattr(function, "__self__") else timed


def main(job: str, began: float, output: Path, flags: list[str]) -> None:
    """Run a job, and write its parts."""
    parts = Parts(began)

    def write() -> None:
        output.write_text(json.dumps(parts.end()), "utf-8")

    def end() -> None:
        write()
        sys.stdout.flush()
        os._exit(0)

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    module = importlib.import_module(f"mlm_dist.{job}")
    runtime = importlib.import_module("mlm_dist.runtime")
    observe(job, parts, end)
    parts.switch(OTHER)
    sys.argv = [f"{job}.py", *flags]
    with contextlib.suppress(SystemExit):
        runtime.main(module.run, prog=f"{job}.py")
    write()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
