"""Launching a job through accelerate's launcher: `mlm-dist JOB --topology NAME`."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mlm_dist import names
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.errors import ConfigError, reason

# Handled by torch's launcher, which ends its processes; the others are passed on to them.
_HANDLED_BY_LAUNCHER = "SIGINT,SIGHUP,SIGQUIT"


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
    import torch
    import yaml
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from mlm_dist.engine import accelerate_file as file_conflicts

    file = accelerate_file(topology)
    launcher = launch_command_parser()
    flags_of_launcher = [flag.lstrip("-") for action in launcher._actions for flag in action.option_strings]
    for flag in (word.split("=")[0].lstrip("-") for word in for_launcher if word.startswith("--")):
        if flag not in flags_of_launcher:
            near = names.nearest(flag, [*known, *flags_of_launcher])
            raise ConfigError(f"--{flag} is a flag of neither {job} nor the launcher; {near}")
    launcher.exit_on_error = False
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
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
    flags.signals_to_handle = _HANDLED_BY_LAUNCHER
    _pass_signals_on()
    try:
        launch_command(flags)
    except ChildFailedError as error:
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


def _pass_signals_on() -> None:
    """Pass the signals that stop a run to the processes of a launch, and give them the time to save.

    Accelerate would die of SIGUSR1 and leave them running, and torch's launcher kills them 30 s after a SIGTERM.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        import psutil

        for child in psutil.Process().children():
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)


def _shell_code(code: int) -> int:
    """An exit code as a shell gives it: 128 + the signal for a process that a signal killed."""
    return code if code >= 0 else 128 - code
