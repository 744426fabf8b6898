"""Jobs in copies of a process that may be killed: the imports, seconds of each launch, are paid once."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import launching

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
    """Run a function in a copy of this process; its output is in a log file.

    This process must not have trained: the threads that libraries then have do not exist in the copy, which waits for
    them. In tests, see `Server`.
    """
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


class Server:
    """A process that has imported all that jobs need, and runs each in a copy of itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=launching.environment(PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1"),
            cwd=launching.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def job(
        self,
        name: str,
        *arguments: str,
        log: Path,
        of_a_run: bool = False,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> Ended:
        """Run a job to its end, or until it is killed, with changes to the environment."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments, str(log), of_a_run, dict(environ)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server of jobs has ended"
        return Ended(int(answer), log.read_text("utf-8", "replace"))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve() -> None:
    """Run the jobs that are asked for on stdin."""
    import mlm_dist.report
    import mlm_dist.train
    import mlm_dist.validate  # noqa: F401

    for line in sys.stdin:
        name, arguments, log, of_a_run, changes = json.loads(line)
        work = functools.partial(job, name, *arguments, of_a_run=of_a_run, **changes)
        print(forked(work, Path(log)).returncode, flush=True)


if __name__ == "__main__":
    serve()
