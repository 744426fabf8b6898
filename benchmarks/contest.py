"""Contenders in processes of their own, each of which works only while it is its turn."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import common

# What a launcher would have left in the environment; every contender starts without it.
_LAUNCHER = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Failed(Exception):
    """A contender could not run; says why, and where its output is."""


class Finished(Exception):
    """Raised inside a contender when no more turn is to come."""


class Lap(NamedTuple):
    """One turn: how long it took, and the peak of the process's memory until its end, in bytes."""

    seconds: float
    peak_memory: int


class Pace:
    """A contender's side: it calls `boundary` before each update, and is held there until it is its turn again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = 0
        self._began: float | None = None

    def boundary(self) -> None:
        """Tell of the turn that ends here, and wait for the next one.

        Raises:
            Finished: There is none.
        """
        if self._left == 0:
            if self._began is not None:
                common.wait_for_gpu()
                self._connection.send(Lap(time.perf_counter() - self._began, common.peak_memory()))
            try:
                self._left = self._connection.recv()
            except EOFError:  # the benchmark was stopped
                self._left = 0
            if not self._left:
                raise Finished
            self._began = time.perf_counter()
        self._left -= 1


class Contender:
    """The benchmark's side: starts a process and gives it its turns.

    Args:
        work: A function of a module, called there with a `Pace` and the arguments.
        arguments: They are pickled.
        environment: Variables the process starts with.
        log: What it prints goes there.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, environment: dict[str, str], log: Path) -> None:
        self._connection, self._process = _start(_paced, (work, *arguments), environment, log)
        self._log = log

    def run(self, num_updates: int) -> Lap:
        """Let it do so many updates while all others wait."""
        self._connection.send(num_updates)
        lap: Lap = _receive(self._connection, self._process, self._log)
        return lap

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: TracebackType | None) -> None:
        self._connection.close()
        _end(self._process)


def apart(
    work: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None, log: Path | None = None
) -> Any:
    """What a function of a module returns, called in a process of its own."""
    return together(work, *arguments, environments=[environment or {}], log=log)[0]


def together(
    work: Callable[..., Any], *arguments: Any, environments: Sequence[dict[str, str]], log: Path | None = None
) -> list[Any]:
    """What a function of a module returns in several processes at once, one for each environment."""
    started = [_start(_returned, (work, *arguments), one, log or Path(os.devnull)) for one in environments]
    try:
        return [_receive(connection, process, log) for connection, process in started]
    finally:
        for connection, process in started:
            connection.close()
            _end(process)


def _start(kind: Callable[..., Any], call: tuple[Any, ...], environment: dict[str, str], log: Path) -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, kind, call, environment, log))
    process.start()
    theirs.close()
    return ours, process


def _receive(connection: Connection, process: Any, log: Path | None) -> Any:
    try:
        found = connection.recv()
    except EOFError:
        process.join()
        raise Failed(f"a contender died with exit code {process.exitcode}; its output is in {log}") from None
    if isinstance(found, Failed):
        raise found
    return found


def _end(process: Any) -> None:
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()


def _child(connection: Any, kind: Any, call: tuple[Any, ...], environment: dict[str, str], log: Path) -> None:
    for name in _LAUNCHER:
        os.environ.pop(name, None)
    os.environ.update(environment)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        kind(connection, *call)
    except Exception as error:
        traceback.print_exc()
        connection.send(Failed(f"{type(error).__name__}: {error} (its output is in {log})"))


def _paced(connection: Any, work: Any, *arguments: Any) -> None:
    try:
        work(Pace(connection), *arguments)
    except Finished:
        return
    raise RuntimeError("it ended before its last turn")


def _returned(connection: Any, work: Any, *arguments: Any) -> None:
    connection.send(work(*arguments))
