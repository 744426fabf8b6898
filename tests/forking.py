"""Jobs in a copy of this process, which may be killed: the imports, seconds of each launch, are paid once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from mlm_dist import runtime


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Args:
        returncode: Its exit code, or minus the signal that killed it.
        output: All it said.
    """

    returncode: int
    output: str


def forked(work: Callable[[], object], log: Path) -> Ended:
    """Run a function in a copy of this process; its output is in a log file."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 70
        try:
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            os.close(stream)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
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
    with mock.patch.dict(os.environ, changes), mock.patch.object(sys, "argv", [f"{name}.py", *arguments]):
        run = importlib.import_module(f"mlm_dist.{name}").run
        runtime.main(run, prog=f"{name}.py", of_a_run=of_a_run)
