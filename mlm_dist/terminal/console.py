"""The console: log messages, tables and progress share it, so that they do not overwrite each other.

There are three kinds of output. A terminal has bars that move. A notebook shows lines, a few per minute. A plain log,
such as a file, a pipe or a dumb terminal, has lines with date and time. Only a terminal gets escape codes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import IO

from rich.console import Console, RenderableType

from mlm_dist import ranks
from mlm_dist.credentials import without_credentials

WIDTH = 120  # of tables where the output is not a terminal
RESULTS = {
    "mlm_dist.plan",
    "mlm_dist.commands.compare",
}  # loggers whose messages are the result of a job, and no log: they get no time
GAP = "  "  # between the parts of a line


class Output(Enum):
    """A kind of output; its value is the format of the time before each line."""

    TERMINAL = ""
    NOTEBOOK = "%H:%M:%S "
    PLAIN = "%Y-%m-%d %H:%M:%S "

    @classmethod
    def of(cls, file: IO[str] | None, environ: Mapping[str, str] = os.environ) -> Output:
        """The kind of a stream.

        A command in a cell of a notebook (`!mlm-dist ...`) writes to a pseudo-terminal or to a pipe, so it is known by
        what the kernel leaves in its environment: its parent, or the pager that IPython sets.

        Args:
            file: The stream; None if this process has none.
            environ: The environment.
        """
        of_ipython = {"TERM": "xterm-color", "GIT_PAGER": "cat"}
        is_cell = "JPY_PARENT_PID" in environ or of_ipython.items() <= environ.items()
        if is_cell:
            return cls.NOTEBOOK
        is_dumb = environ.get("TERM", "").lower() in ("dumb", "unknown")
        is_terminal = file is not None and not file.closed and file.isatty()
        return cls.TERMINAL if is_terminal and not is_dumb else cls.PLAIN


def console_of(output: Output, file: IO[str] | None = None) -> Console:
    """A console for a kind of output.

    Args:
        output: The kind.
        file: The stream; by default the standard output, whatever it is when something is printed.
    """
    if output is Output.TERMINAL:
        return Console(file=file, highlight=False, soft_wrap=True)
    # Variables such as FORCE_COLOR do not apply: the escape codes would be part of the log.
    return Console(
        file=file,
        highlight=False,
        soft_wrap=True,
        force_terminal=False,
        force_interactive=False,
        force_jupyter=False,
        color_system=None,
    )


output = Output.of(sys.stdout)
console = console_of(output)


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
            form = "" if record.name in RESULTS else output.value
            stamp = time.strftime(form, time.localtime(record.created))
            lines = (prefix + without_credentials(self.format(record))).split("\n")
            console.print("\n".join(stamp + line for line in lines), markup=False)
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


@contextlib.contextmanager
def on_stderr() -> Iterator[None]:
    """Print log and progress on the standard error inside: the standard output is for other programs."""
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False


def is_log_shown() -> bool:
    """Whether `show_log` was called: this process is a program of this package, which may show progress."""
    return any(isinstance(handler, ConsoleHandler) for handler in logging.getLogger("mlm_dist").handlers)


def text_of(renderable: RenderableType) -> str:
    """A table or the like as text, for a log message."""
    width = console.width if output is Output.TERMINAL else WIDTH
    buffer = io.StringIO()
    # Not styled: a notebook sets FORCE_COLOR, but the text may go to a file.
    Console(file=buffer, highlight=False, width=width, force_terminal=False, force_jupyter=False).print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n"))


def fitting(parts: Sequence[str], width: int | None = None) -> str:
    """A line of the first part and of those of the others that still fit; a log that is no terminal gets all.

    Args:
        parts: The parts, the most important first.
        width: Columns; by default those of the terminal.
    """
    if width is None:
        width = console.width if output is Output.TERMINAL else sys.maxsize
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(GAP) + len(part) > width:
            break
        line += GAP + part
    return line
