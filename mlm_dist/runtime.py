"""What all jobs share: from flags to an exit code, and lines for people on one process only."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console, RenderableType

from mlm_dist.config import Config, parse, parse_of_run
from mlm_dist.corpus.sources.git import without_credentials
from mlm_dist.errors import Interrupted, PeerError, UserError

EXIT_OK, EXIT_FAULT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 75
SECONDS_FOR_RANK_0 = 5.0
DEBUG = "MLM_DIST_DEBUG"  # set, errors of the user's come with their tracebacks too


def run(
    main: Callable[[Config], None], *, prog: str, description: str | None = None, of_a_run: bool = False
) -> NoReturn:
    """Run a job with this process's flags and leave with its exit code (see the README's table).

    Args:
        main: The job.
        prog: Its name in the help text.
        description: What it does, for the help text.
        of_a_run: Whether it is about a run that exists, whose own configuration then stands before flags and files.
    """
    rank, _ = rank_and_world_size()
    # A tracker's thread that cannot write raises here again when its next value comes; its own traceback says no more.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else threading.__excepthook__(args)
    try:
        config = (parse_of_run if of_a_run else parse)(prog=prog, description=description)
        sys.argv[1:] = map(without_credentials, sys.argv[1:])  # trackers take note of the command line
        main(config)
        code = EXIT_OK
    except UserError as error:
        if rank != 0:
            # Rank 0 has most likely found the same and says it; the launcher then ends this process while it waits.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(SECONDS_FOR_RANK_0)
        if os.environ.get(DEBUG):
            traceback.print_exc()
        who = f"[rank {rank}] " if rank else ""
        print(f"{who}error: {error}", file=sys.stderr, flush=True)
        code = EXIT_USER_ERROR
    except Interrupted as error:
        say(str(error))
        code = EXIT_INTERRUPTED
    except PeerError as error:
        time.sleep(SECONDS_FOR_RANK_0)
        print(f"[rank {rank}] stopped: {error}", file=sys.stderr, flush=True)
        code = EXIT_FAULT
    raise SystemExit(code)


def rank_and_world_size() -> tuple[int, int]:
    """This process's number among all, and how many there are, as the launcher says; no process group is needed."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_restarted() -> bool:
    """Whether a launcher or a cluster started this job again by itself, with the flags of the first time."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def is_main_process() -> bool:
    """Whether this is the one process that talks to people."""
    return rank_and_world_size()[0] == 0


def say(line: str) -> None:
    """One line for the person at the screen, from the main process only."""
    if is_main_process():
        print(line, flush=True)


def show(what: RenderableType) -> None:
    """A table or the like for the person at the screen, from the main process only."""
    if is_main_process():
        Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(what)
