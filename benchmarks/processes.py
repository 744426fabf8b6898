"""Functions in processes of their own: called once, or held before each training step until it is their turn."""

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

# Variables of a launcher; no process starts with them.
_LAUNCHER = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ProcessError(Exception):
    """A process failed; the message has its error and the path of its output."""


class NoMoreStepsError(Exception):
    """Ends the training in a process when no more steps are wanted."""


class Measurement(NamedTuple):
    """A number of steps: their seconds, and the peak memory of the process up to their end, in bytes."""

    seconds: float
    peak_memory: int


class StepControl:
    """The process's side of `SteppedProcess`: training calls `before_step`, which returns when the step may run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = 0
        self._began: float | None = None

    def before_step(self) -> None:
        """Send the measurement of the steps that are done, if these were the last ones asked for, and wait for more.

        Raises:
            NoMoreStepsError: No more steps are wanted.
        """
        if self._left == 0:
            if self._began is not None:
                common.wait_for_gpu()
                self._connection.send(Measurement(time.perf_counter() - self._began, common.peak_memory()))
            try:
                self._left = self._connection.recv()
            except EOFError:  # the benchmark was stopped
                self._left = 0
            if not self._left:
                raise NoMoreStepsError
            self._began = time.perf_counter()
        self._left -= 1


class SteppedProcess:
    """A process that trains a number of steps on request and waits in between.

    Args:
        work: A function of a module, called in the process with a `StepControl` and the arguments.
        arguments: They are pickled.
        environment: Environment variables to add.
        log: File for its output.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, environment: dict[str, str], log: Path) -> None:
        self._connection, self._process = _start(_stepped, (work, *arguments), environment, log)
        self._log = log

    def run(self, num_steps: int) -> Measurement:
        """Run a number of steps.

        Raises:
            ProcessError: The process failed.
        """
        self._connection.send(num_steps)
        measurement: Measurement = _receive(self._connection, self._process, self._log)
        return measurement

    def __enter__(self) -> SteppedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: TracebackType | None) -> None:
        self._connection.close()
        _end(self._process)


def call(
    work: Callable[..., Any],
    *arguments: Any,
    environment: dict[str, str] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
) -> Any:
    """The result of a function of a module, called in a process of its own.

    Raises:
        ProcessError: The process failed, or it took longer than `timeout` seconds and was killed.
    """
    return call_all(work, *arguments, environments=[environment or {}], log=log, timeout=timeout)[0]


def call_all(
    work: Callable[..., Any],
    *arguments: Any,
    environments: Sequence[dict[str, str]],
    log: Path | None = None,
    timeout: float | None = None,
) -> list[Any]:
    """The results of a function of a module, called in several processes at once, one for each environment.

    Raises:
        ProcessError: A process failed, or took longer than `timeout` seconds.
    """
    started = [_start(_called, (work, *arguments), one, log or Path(os.devnull)) for one in environments]
    try:
        for connection, process in started:
            if timeout is not None and not connection.poll(max(0.0, timeout)):
                process.kill()
                raise ProcessError(f"{work.__name__} took longer than {timeout:.0f} s")
        return [_receive(connection, process, log) for connection, process in started]
    finally:
        for connection, process in started:
            connection.close()
            _end(process)


def _start(kind: Callable[..., Any], call: tuple[Any, ...], environment: dict[str, str], log: Path) -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_child, args=(child, kind, call, environment, log))
    process.start()
    child.close()
    return parent, process


def _receive(connection: Connection, process: Any, log: Path | None) -> Any:
    try:
        result = connection.recv()
    except EOFError:
        process.join()
        raise ProcessError(f"a process died with exit code {process.exitcode}; its output is in {log}") from None
    if isinstance(result, ProcessError):
        raise result
    return result


def _end(process: Any) -> None:
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()


def _child(connection: Any, kind: Any, call: tuple[Any, ...], environment: dict[str, str], log: Path) -> None:
    for name in _LAUNCHER:
        os.environ.pop(name, None)
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        kind(connection, *call)
    except Exception as error:
        traceback.print_exc()
        connection.send(ProcessError(f"{type(error).__name__}: {error} (its output is in {log})"))


def _stepped(connection: Any, work: Any, *arguments: Any) -> None:
    try:
        work(StepControl(connection), *arguments)
    except NoMoreStepsError:
        return
    raise RuntimeError("training ended before all steps were done")


def _called(connection: Any, work: Any, *arguments: Any) -> None:
    connection.send(work(*arguments))
