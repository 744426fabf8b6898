"""Experiment trackers, through accelerate: those that are named, and none that asks a question."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType

from mlm_dist.config import Config, keys, value_of
from mlm_dist.errors import ConfigError, reason

PROJECT = "mlm_dist"  # what runs are filed under; each goes by the name of its directory


def check(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used, before any work is done.

    Raises:
        ConfigError: One is unknown, not installed, or has no key.
    """
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    for name in names:
        if name not in known:
            raise ConfigError(f"tracking.trackers: {name} is not known to accelerate; choose of {', '.join(known)}")
        if name not in {str(kind) for kind in get_available_trackers()}:
            raise ConfigError(f"tracking.trackers: {name} is not installed; run: pip install {name}")
        if name == "wandb":
            _check_wandb()


def chosen(config: Config) -> list[Any]:
    """What accelerate is to log with; the folder of TensorBoard is named by us, because accelerate names projects."""
    folder = os.path.expanduser(config.output_dir)
    return [TensorBoardTracker("tensorboard", folder) if name == "tensorboard" else name for name in _names(config)]


def start(accelerator: Accelerator, config: Config, run: Path) -> None:
    """Start the chosen trackers and tell them the run's configuration; on the main process.

    Raises:
        ConfigError: One of them cannot start.
    """
    name = run.resolve().name
    named: dict[str, dict[str, Any]] = {
        "wandb": {"name": name, "dir": str(run)},
        "mlflow": {"run_name": name},
        "trackio": {"name": name},
    }
    try:
        with _no_questions():
            accelerator.init_trackers(PROJECT, config=flat(config), init_kwargs=named)
    except OSError:
        raise  # of the disk; the caller says which folder
    except Exception as error:  # each tracker has kinds of its own for: no key, no network, a broken store
        raise ConfigError(
            f"tracking.trackers: {' and '.join(_names(config))} cannot start ({reason(error)}); set up or leave out"
        ) from None


def flat(config: Config) -> dict[str, bool | int | float | str]:
    """{dotted key: value}, in the types that every tracker takes; lists and nothing become their JSON."""
    found: dict[str, bool | int | float | str] = {}
    for key in keys():
        value = value_of(config, key)
        found[key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


def without(config: Config) -> Config:
    """The same configuration for jobs that track nothing."""
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, trackers=[]))


def _names(config: Config) -> list[str]:
    return list(dict.fromkeys(config.tracking.trackers))


def _check_wandb() -> None:
    """wandb would ask for a key when it starts, after the corpus is prepared; look for one now."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") not in ("online", "run", "shared"):
        return
    try:
        with _no_questions():
            wandb.login()
    except Exception as error:
        raise ConfigError(
            f"tracking.trackers: wandb has no key ({reason(error)}); set WANDB_API_KEY, or WANDB_MODE=offline to keep "
            "the run on this disk"
        ) from None


@contextlib.contextmanager
def _no_questions() -> Iterator[None]:
    """Who asks at the terminal gets no answer, and fails instead of waiting for one."""
    terminal = sys.stdin
    with open(os.devnull, encoding="utf-8") as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = terminal
