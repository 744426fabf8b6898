"""Experiment trackers, through accelerate: those that are named, and none that asks a question."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType

from mlm_dist.errors import ConfigError, reason

PROJECT = "mlm_dist"  # the project of all runs; each has the name of its directory


def check(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used, before any work is done.

    Raises:
        ConfigError: One is unknown, not installed, or has no key.
    """
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    for name in names:
        if name not in known:
            raise ConfigError(f"tracking.trackers: {name} is not known to accelerate; choose from {', '.join(known)}")
        if name not in {str(kind) for kind in get_available_trackers()}:
            raise ConfigError(f"tracking.trackers: {name} is not installed; run: pip install {name}")
        if name == "wandb":
            _check_wandb()


def accelerate_names(names: Sequence[str], folder: str) -> list[Any]:
    """What accelerate logs with. TensorBoard gets its folder here, because accelerate would name it by the project."""
    unique = dict.fromkeys(names)
    return [TensorBoardTracker("tensorboard", folder) if name == "tensorboard" else name for name in unique]


def start(accelerator: Accelerator, config: Mapping[str, bool | int | float | str], run_name: str, folder: str) -> None:
    """Start the trackers and give them the config of the run; on rank 0.

    Raises:
        ConfigError: One of them cannot start.
    """
    settings: dict[str, dict[str, Any]] = {
        "wandb": {"name": run_name, "dir": folder},
        "mlflow": {"run_name": run_name},
        "trackio": {"name": run_name},
    }
    try:
        with _no_questions():
            accelerator.init_trackers(PROJECT, config=dict(config), init_kwargs=settings)
    except OSError:
        raise  # about the disk; the caller says which folder
    except Exception as error:  # trackers raise errors of their own: no key, no network, a broken store
        names = [str(getattr(one, "name", one)) for one in accelerator.log_with]
        raise ConfigError(
            f"tracking.trackers: {' and '.join(names)} cannot start ({reason(error)}); set up or remove"
        ) from None


def _check_wandb() -> None:
    """wandb asks for a key when it starts, after the corpus is prepared; look for one now."""
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
    """Give a library that asks at the terminal no answer, so that it fails instead of waiting."""
    terminal = sys.stdin
    with open(os.devnull, encoding="utf-8") as empty:
        sys.stdin = empty
        try:
            yield
        finally:
            sys.stdin = terminal
