"""From flags to an exit code: what all jobs share when they run as programs."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from mlm_dist import interruption, ranks, system_errors, usage
from mlm_dist.config import Config, parse, parse_of_run
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import Interrupted, PeerError, UserError
from mlm_dist.terminal import library_messages
from mlm_dist.terminal.console import console, show_log

EXIT_OK, EXIT_FAULT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, interruption.EXIT_INTERRUPTED
SECONDS_FOR_RANK_0 = 5.0
COMMAND = "MLM_DIST_COMMAND"  # the words behind `mlm-dist plan`, for processes that a launcher starts
DEBUG = "MLM_DIST_DEBUG"  # if set, errors of the user come with their tracebacks


def main(
    job: Callable[[Config], object],
    *,
    prog: str,
    description: str | None = None,
    of_a_run: bool = False,
    read: Callable[..., Config] | None = None,
) -> NoReturn:
    """Run a job with this process's flags and exit with its exit code (see the README's table).

    Args:
        job: The job.
        prog: Its name in the help text.
        description: What it does, with examples, for the help text; by default those of `usage.JOBS`.
        of_a_run: Whether it is about an existing run, whose config is read before files and flags.
        read: Reads its flags; by default `config.parse`, or `config.parse_of_run` for an existing run.
    """
    interruption.watch()
    library_messages.silence()
    show_log()
    # A thread of a tracker that cannot write raises here again with its next value; its traceback says no more.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else threading.__excepthook__(args)
    try:
        interruption.begin_job()
        reads = read or (parse_of_run if of_a_run else parse)
        code = _code_of(job, lambda: reads(prog=prog, help_text=lambda: usage.text(prog, description)))
    except BaseException as error:
        # What a library makes of KeyboardInterrupt, or of a program that the same Ctrl-C ended, says nothing more.
        if not interruption.is_interrupted() or isinstance(error, SystemExit):
            raise
        code = _interrupted(interruption.message())
    raise SystemExit(code)


def _code_of(job: Callable[[Config], object], read: Callable[[], Config]) -> int:
    rank = ranks.rank()
    try:
        config = read()
        sys.argv[1:] = map(without_credentials, sys.argv[1:])  # trackers record the command line
        with system_errors.explained():
            job(config)
    except (UserError, PeerError) as error:
        if interruption.is_interrupted():
            raise
        interruption.let_go()
        if rank != 0 or isinstance(error, PeerError):
            # Another rank most likely says why; the launcher then ends this process while it waits.
            time.sleep(SECONDS_FOR_RANK_0)
        if isinstance(error, UserError):
            _report(error, rank)
            return EXIT_USER_ERROR
        print(f"[rank {rank}] stopped: {error}", file=sys.stderr, flush=True)
        return EXIT_FAULT
    except Interrupted as error:
        return _interrupted(str(error))
    interruption.leave()
    return EXIT_OK


def _interrupted(message: str) -> int:
    interruption.leave()
    interruption.drop_dead_output()
    if ranks.is_main():
        console.print(message, markup=False)
    return EXIT_INTERRUPTED


def _report(error: UserError, rank: int) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    prefix = f"[rank {rank}] " if rank else ""
    print(f"{prefix}error: {without_credentials(str(error))}", file=sys.stderr, flush=True)
