"""Signals that stop a program: the first one saves and leaves, a second Ctrl-C leaves at once.

Jobs that are called from Python handle signals only while they train, see `training.signals`. A program calls `watch`
first of all. Until its job trains, a signal raises KeyboardInterrupt in the main thread: there is nothing to save.

Python calls signal handlers between two of its instructions only, which may never come while the main thread waits for
another rank. So a thread also reads each signal from a pipe. The same thread watches the launcher: a process whose
launcher was killed stops as if it had received SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from mlm_dist import ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
EXIT_INTERRUPTED, EXIT_ABORTED = 75, 130
LAUNCHER = "MLM_DIST_LAUNCHER"  # the process id of mlm_dist's launcher
REPEAT_SECONDS = 0.5  # some wrappers pass on a Ctrl-C that the terminal has sent already
LEAVE_SECONDS = 15.0  # to leave once interrupted; torch's launcher kills its processes after 30 s
WATCH_SECONDS = 1.0
RETRY_SECONDS = 0.05  # after Python has dropped a KeyboardInterrupt
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "login", "sshd", "screen", "tmux: server"}

NOTHING_SAVED = "stopped by a signal before there was anything new to save; run the same command again"
_TRAINED = "stopped by a signal after training; the same command finishes the run"
_FIRST = "stopping after this step to save; press Ctrl-C again to stop at once"


_leaves = threading.Lock()


class _Process:
    """What this process does with a signal."""

    is_watching = False  # whether it is a program that called `watch`
    is_loading = True  # nothing is open yet: leave at once
    is_training = False  # set a flag, and let the loop save
    is_settled = False  # saved: leave in order
    is_interrupted = False  # KeyboardInterrupt was raised
    line = NOTHING_SAVED  # to print if it leaves


def watch() -> None:
    """Handle signals from now on, and watch the launcher; for programs, at their beginning.

    SIGINT and SIGHUP stay ignored if they were, as for a program that nohup started.
    """
    if _Process.is_watching:
        return
    _Process.is_watching = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in handled():
        signal.signal(number, _interrupt)
    sys.unraisablehook = _on_dropped_error
    os.register_at_fork(after_in_child=_forget)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the thread, which must not receive them itself
    threading.Thread(target=_listen, args=(reader, _launcher()), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def handled() -> tuple[signal.Signals, ...]:
    """The signals that stop a run in this process."""
    kept = (signal.SIGINT, signal.SIGHUP)
    return tuple(number for number in SIGNALS if number not in kept or signal.getsignal(number) is not signal.SIG_IGN)


def begin_job() -> None:
    """The program is loaded: a signal raises KeyboardInterrupt from now on."""
    _Process.is_loading = False


def message() -> str:
    """What a program says that a signal stopped outside training."""
    return _Process.line


def is_interrupted() -> bool:
    """Whether a signal has raised KeyboardInterrupt: errors after it are its consequences."""
    return _Process.is_interrupted


@contextlib.contextmanager
def training() -> Iterator[None]:
    """Handlers of signals only set a flag inside, because all ranks agree on what follows."""
    _Process.is_training, _Process.is_settled = True, False
    try:
        yield
    finally:
        _Process.is_training, _Process.line = False, _TRAINED


def settle() -> None:
    """The run is saved: a launcher that ends its other processes does not change how this one leaves."""
    _Process.is_settled = True


def leave() -> None:
    """Ignore further signals: the program ends."""
    if _Process.is_watching:
        _leaves.acquire(blocking=False)  # the program says why
        for number in handled():
            signal.signal(number, signal.SIG_IGN)


def let_go() -> None:
    """Give signals their default effect again: the program failed and may be ended."""
    if _Process.is_watching:
        for number in handled():
            signal.signal(number, signal.SIG_DFL)


def announce() -> None:
    """Say what a first Ctrl-C does; can be called in a signal handler."""
    if _Process.is_watching and os.environ.get("LOCAL_RANK", "0") == "0":
        _print(_FIRST)


def drop_dead_output() -> None:
    """Write to nowhere what would go to a terminal or a pipe that is gone: an error would end the run unsaved."""
    for file in (1, 2):
        poll = select.poll()
        poll.register(file, 0)
        with contextlib.suppress(OSError):
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, file)
                os.close(null)


def _forget() -> None:
    """A forked process shares the pipe, but its signals are its own."""
    signal.set_wakeup_fd(-1)
    _Process.is_watching = False
    for number in handled():
        signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _Process.is_loading:
        leave_at_once()
    if not _Process.is_interrupted:
        _Process.is_interrupted = True
        raise KeyboardInterrupt


def _on_dropped_error(dropped: sys.UnraisableHookArgs) -> None:
    """Interrupt again if the first attempt came inside of a `__del__`, where Python drops errors."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        threading.Timer(RETRY_SECONDS, _interrupt_again).start()
    else:
        sys.__unraisablehook__(dropped)


def _interrupt_again() -> None:
    _Process.is_interrupted = False
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(reader: int, launcher: int | None) -> None:
    """Act on signals where the main thread may not, and on the end of the launcher."""
    first: float | None = None  # when Ctrl-C was pressed
    deadline: float | None = None
    while True:
        # A launcher that is gone is looked for from time to time; otherwise this waits for signals alone.
        timeout = WATCH_SECONDS if launcher is not None or deadline is not None else None
        ready, _, _ = select.select([reader], [], [], timeout)
        now = time.monotonic()
        if launcher is not None and os.getppid() != launcher:
            launcher = None
            os.kill(os.getpid(), signal.SIGTERM)
        if deadline is not None and now > deadline and not _Process.is_training:
            leave_at_once()
        for number in os.read(reader, 64) if ready else b"":
            if number not in SIGNALS:
                continue
            drop_dead_output()
            if _Process.is_loading:
                leave_at_once()
            if first is not None and now - first > REPEAT_SECONDS and _is_abort(number):
                sys.stdout.flush()
                os._exit(EXIT_ABORTED)
            if number == signal.SIGINT and first is None:
                first = now
            if not _Process.is_training and deadline is None:
                deadline = now + LEAVE_SECONDS


def _is_abort(number: int) -> bool:
    """Whether a signal after Ctrl-C is a second one: torch's launcher passes that on as SIGTERM."""
    by_torch = "TORCHELASTIC_RUN_ID" in os.environ and LAUNCHER not in os.environ
    return number == signal.SIGINT or (number == signal.SIGTERM and by_torch and not _Process.is_settled)


def leave_at_once() -> NoReturn:
    """End this process without further ado; nothing of it needs to be saved."""
    if not _leaves.acquire(blocking=False):
        time.sleep(1)  # the other thread says so, and ends the process
    elif ranks.is_main():
        _print(_Process.line)
    os._exit(EXIT_INTERRUPTED)


def _print(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _launcher() -> int | None:
    """The process that launched this one as one of its ranks; None if it was started by a person or a scheduler.

    A shell is no launcher: what runs under nohup outlives it.
    """
    import psutil

    parent = os.getppid()
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if launcher and (launcher == parent or not psutil.pid_exists(launcher)):
        return launcher
    try:
        process = psutil.Process(parent)
        name, command = process.name(), process.cmdline()
    except psutil.Error:
        return None
    is_rank = "LOCAL_RANK" in os.environ or "WORLD_SIZE" in os.environ
    is_accelerate = any(os.path.basename(word) == "accelerate" or "accelerate.commands" in word for word in command)
    return parent if (is_rank and name not in _SHELLS) or is_accelerate else None
