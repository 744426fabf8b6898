"""The console: log messages, tables and progress bars share it, so that they do not overwrite each other."""

from __future__ import annotations

import io
import logging
import sys

from rich.console import Console, RenderableType

from mlm_dist import ranks
from mlm_dist.credentials import without_credentials

WIDTH = 120  # where the output is not a terminal

console = Console(highlight=False, soft_wrap=True)


class ConsoleHandler(logging.Handler):
    """Prints log messages: information on rank 0 only, warnings of any rank with a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        rank = ranks.rank()
        if rank and record.levelno < logging.WARNING:
            return
        try:
            prefix = f"[rank {rank}] " if rank else ""
            if record.levelno >= logging.WARNING:
                prefix += f"{record.levelname}: "
            console.print(prefix + without_credentials(self.format(record)), markup=False)
            console.file.flush()
        except Exception:
            self.handleError(record)


def show_log() -> None:
    """Print the log messages of this package on the console; for programs, not for libraries."""
    logger = logging.getLogger("mlm_dist")
    if not is_log_shown():
        logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False


def is_log_shown() -> bool:
    """Whether `show_log` was called: this process is a program of this package, which may show progress bars."""
    return any(isinstance(handler, ConsoleHandler) for handler in logging.getLogger("mlm_dist").handlers)


def text_of(renderable: RenderableType) -> str:
    """A table or the like as text, for a log message."""
    width = None if sys.stdout.isatty() else WIDTH
    buffer = io.StringIO()
    Console(file=buffer, highlight=False, width=width or console.width).print(renderable)
    return buffer.getvalue().rstrip("\n")
