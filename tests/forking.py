"""Jobs in forked processes, which may be killed: the imports, seconds of each launch, are paid once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import launching

from mlm_dist import runtime

_IMPORTED = ["torch", "accelerate", "deepspeed", "mlm_dist.train", "mlm_dist.validate", "mlm_dist.report"]


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Args:
        returncode: Its exit code, or minus the signal that killed it.
        output: All it said.
    """

    returncode: int
    output: str


def start(
    name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str], *, of_a_run: bool = False
) -> BaseProcess:
    """Start a job as a program, forked from a server that has imported what jobs need; its output is added to a log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED])
    process = context.Process(target=_serve, args=(name, [*arguments], str(log), dict(environ), of_a_run))
    process.start()
    return process


def run(
    name: str,
    *arguments: str,
    log: Path,
    of_a_run: bool = False,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Ended:
    """Run a job as a program to its end, or until it is killed, with changes to the environment."""
    log.unlink(missing_ok=True)
    process = start(name, arguments, log, launching.environment(**environ), of_a_run=of_a_run)
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, log.read_text("utf-8", "replace"))


def forked(work: Callable[[], object], log: Path) -> Ended:
    """Run a function in a copy of this process; its output is in a log file.

    This process must not have trained: the threads that libraries then have do not exist in the copy, which waits for
    them. In tests, see `run`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        code = 70
        try:
            _write_to(log)
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            for output in (sys.stdout, sys.stderr):
                output.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace"))


def job(name: str, *arguments: str, of_a_run: bool = False, **changes: str) -> None:
    """A job as a program: flags and environment in, output and an exit code out; it does not return."""
    warnings.simplefilter("ignore")  # pytest makes errors of them
    with mock.patch.dict(os.environ, changes), mock.patch.object(sys, "argv", [f"mlm_dist/{name}.py", *arguments]):
        run_job = importlib.import_module(f"mlm_dist.{name}").run
        runtime.main(run_job, prog=f"{name}.py", of_a_run=of_a_run)


def _serve(name: str, arguments: list[str], log: str, environ: dict[str, str], of_a_run: bool) -> None:
    _write_to(Path(log))
    os.environ.clear()
    os.environ.update(environ)
    job(name, *arguments, of_a_run=of_a_run)


def _write_to(log: Path) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(stream, number)
    os.close(stream)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
