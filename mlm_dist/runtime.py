"""From flags to an exit code: what all jobs share when they run as programs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from mlm_dist import ranks, system_errors
from mlm_dist.config import Config, parse, parse_of_run
from mlm_dist.console import console, show_log
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import Interrupted, PeerError, UserError

EXIT_OK, EXIT_FAULT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 75
SECONDS_FOR_RANK_0 = 5.0
DEBUG = "MLM_DIST_DEBUG"  # if set, errors of the user come with their tracebacks


def main(
    job: Callable[[Config], object], *, prog: str, description: str | None = None, of_a_run: bool = False
) -> NoReturn:
    """Run a job with this process's flags and exit with its exit code (see the README's table).

    Args:
        job: The job.
        prog: Its name in the help text.
        description: What it does, for the help text.
        of_a_run: Whether it is about an existing run, whose config is read before files and flags.
    """
    show_log()
    rank = ranks.rank()
    # A thread of a tracker that cannot write raises here again with its next value; its traceback says no more.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else threading.__excepthook__(args)
    try:
        config = (parse_of_run if of_a_run else parse)(prog=prog, description=description)
        sys.argv[1:] = map(without_credentials, sys.argv[1:])  # trackers record the command line
        with system_errors.explained():
            job(config)
        code = EXIT_OK
    except UserError as error:
        if rank != 0:
            # Rank 0 most likely reports the same error; the launcher then ends this process while it waits.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(SECONDS_FOR_RANK_0)
        _report(error, rank)
        code = EXIT_USER_ERROR
    except Interrupted as error:
        if rank == 0:
            console.print(str(error), markup=False)
        code = EXIT_INTERRUPTED
    except PeerError as error:
        time.sleep(SECONDS_FOR_RANK_0)
        print(f"[rank {rank}] stopped: {error}", file=sys.stderr, flush=True)
        code = EXIT_FAULT
    raise SystemExit(code)


def _report(error: UserError, rank: int) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    prefix = f"[rank {rank}] " if rank else ""
    print(f"{prefix}error: {without_credentials(str(error))}", file=sys.stderr, flush=True)
