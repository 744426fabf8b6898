"""What all jobs share: from flags to an exit code, and lines for people on one process only."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console, RenderableType

from mlm_dist.config import Config, parse
from mlm_dist.errors import Interrupted, PeerError, UserError

EXIT_OK, EXIT_FAULT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 75
SECONDS_FOR_RANK_0 = 5.0


def run(main: Callable[[Config], None], *, prog: str, description: str | None = None) -> NoReturn:
    """Run a job with this process's flags and leave with its exit code (see the README's table)."""
    rank, _ = rank_and_world_size()
    # A tracker's thread that cannot write raises here again when its next value comes; its own traceback says no more.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else threading.__excepthook__(args)
    try:
        main(parse(prog=prog, description=description))
        code = EXIT_OK
    except UserError as error:
        if rank != 0:
            # Rank 0 has most likely found the same and says it; the launcher then ends this process while it waits.
            time.sleep(SECONDS_FOR_RANK_0)
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
