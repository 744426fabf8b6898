"""Launching a job through accelerate's launcher: `mlm-dist JOB --topology NAME`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_dist import interruption, names
from mlm_dist.config import aliases, command_line
from mlm_dist.config.messages import unknown_key
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.errors import ConfigError, reason
from mlm_dist.terminal import library_messages

POLL_SECONDS = 0.5


def accelerate_file(topology: str) -> Path:
    """The accelerate file of a topology's name, or of a path.

    Raises:
        ConfigError: There is no such file.
    """
    if topology in TOPOLOGIES:
        return TOPOLOGIES[topology]
    path = Path(topology).expanduser()
    if path.is_file():
        return path
    hint = names.nearest(topology, TOPOLOGIES.names())
    raise ConfigError(f"--topology: there is no accelerate file '{topology}'; {hint}")


def launch(job: str, topology: str, for_job: Sequence[str], for_launcher: Sequence[str], known: Sequence[str]) -> None:
    """Run a job through accelerate's launcher, and exit with the exit code of its processes if it fails.

    Args:
        job: The job.
        topology: Name or path of an accelerate file.
        for_job: Flags of the job, already checked.
        for_launcher: Flags of the launcher.
        known: All flags of the job, for messages.

    Raises:
        ConfigError: A flag or the file cannot be used; the message names it.
        SystemExit: A process failed.
    """
    library_messages.silence()
    forwarding = _Forwarding()
    import torch
    import yaml
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from mlm_dist.engine import accelerate_file as file_conflicts

    file = accelerate_file(topology)
    launcher = launch_command_parser()
    flags_of_launcher = [flag.lstrip("-") for action in launcher._actions for flag in action.option_strings]
    switches = {flag for action in launcher._actions if action.nargs == 0 for flag in action.option_strings}
    for flag, value in command_line.pairs(for_launcher):
        name = flag.lstrip("-")
        if name not in flags_of_launcher:
            if aliases.find(name) is not None:
                raise ConfigError(unknown_key(name, value or ""))
            near = names.nearest(name, [*known, *flags_of_launcher])
            raise ConfigError(f"--{name} is a flag of neither {job} nor the launcher; {near}")
        if flag in switches and value is not None:
            raise ConfigError(f"{flag} takes no value; write {value} directly after `mlm-dist {job}`")
    launcher.exit_on_error = False
    try:
        settings = file_conflicts.read(file)
        flags = launcher.parse_args(
            [*for_launcher, "--config_file", str(file), "--module", f"mlm_dist.{job}", *for_job]
        )
        file_conflicts.check(str(file), settings, vars(flags))
        if job != "prepare":  # it computes on the CPU
            file_conflicts.check_gpus(settings, vars(flags), torch.accelerator.device_count())
    except (argparse.ArgumentError, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"--topology: cannot launch with {file} ({reason(error)})") from error
    if settings.get("use_cpu"):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # accelerate tells a single process only
    flags.signals_to_handle = "SIGQUIT"  # the only one that torch's launcher handles itself
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(forwarding.is_worth_logging)
    try:
        launch_command(flags)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if interruption.EXIT_INTERRUPTED in codes and interruption.EXIT_ABORTED not in codes:
            raise SystemExit(interruption.EXIT_INTERRUPTED) from None
        raise SystemExit(_shell_code(error.get_first_failure()[1].exitcode)) from None
    except SignalException as error:
        raise SystemExit(_shell_code(-error.sigval)) from None
    except Exception as error:
        _exit_with_code_of(error)
        raise ConfigError(f"--topology: cannot launch with {file} ({reason(error)})") from error


def _exit_with_code_of(error: Exception) -> None:
    code = getattr(error, "returncode", None)  # of a single process
    if code is not None:
        raise SystemExit(_shell_code(code)) from None


class _Forwarding:
    """Passes the signals that stop a run on to the processes of a launch, and lets them save for as long as it takes.

    Torch's launcher would kill them 30 s after a signal, and accelerate would die of SIGUSR1 and leave them running.
    The signals are blocked in this process, and in its children until they can handle them: none comes too early.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self._told: set[int] = set()
        os.environ[interruption.LAUNCHER] = str(os.getpid())
        handled = interruption.handled()
        signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        threading.Thread(target=self._wait_for_signals, args=(handled,), daemon=True).start()

    def is_worth_logging(self, record: logging.LogRecord) -> bool:
        """Whether torch's launcher logs more than the end of processes that were to end."""
        if isinstance(record.args, tuple) and record.args[:1] == (interruption.EXIT_INTERRUPTED,):
            self.is_stopping = True
        return not self.is_stopping

    def _wait_for_signals(self, handled: Sequence[signal.Signals]) -> None:
        while True:
            number = signal.sigwait(handled)
            if not self._children():
                interruption.leave_at_once()
            for child in self._children():
                self._send(child, number)
            if not self.is_stopping:
                self.is_stopping = True
                threading.Thread(target=self._stop_new_ones, daemon=True).start()

    def _stop_new_ones(self) -> None:
        """Stop processes that torch's launcher starts again in place of those that were stopped."""
        while True:
            time.sleep(POLL_SECONDS)
            for child in self._children():
                if child.pid not in self._told:
                    self._send(child, signal.SIGTERM)

    def _send(self, child: Any, number: int) -> None:
        self._told.add(child.pid)
        with contextlib.suppress(OSError):
            # The terminal sends Ctrl-C to its whole process group, and a second one would end the run unsaved.
            has_received = number == signal.SIGINT and os.getpgid(child.pid) == os.getpgrp()
            os.kill(child.pid, signal.SIGTERM if has_received else number)

    def _children(self) -> list[Any]:
        import psutil

        return list(psutil.Process().children())


def _shell_code(code: int) -> int:
    """An exit code as a shell gives it: 128 + the signal for a process that a signal killed."""
    return code if code >= 0 else 128 - code
