"""Experiment trackers, through accelerate: those that are named, and none that asks a question."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, MLflowTracker, get_available_trackers
from accelerate.utils import LoggerType

from mlm_dist.config import TrackingConfig
from mlm_dist.credentials import without_credentials
from mlm_dist.engine.resumed_trackers import MLflow, TensorBoard
from mlm_dist.engine.tracked_runs import TrackedRuns
from mlm_dist.errors import ConfigError, reason
from mlm_dist.system_errors import named

logger = logging.getLogger(__name__)
WITH_TAGS = ("wandb", "mlflow")  # trackers that have groups and tags


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
    return [TensorBoard(folder) if name == "tensorboard" else name for name in dict.fromkeys(names)]


def start(
    accelerator: Accelerator,
    tracking: TrackingConfig,
    settings: Mapping[str, bool | int | float | str],
    run_name: str,
    folder: str,
    resumed_from: int = 0,
) -> None:
    """Start the trackers and give them the settings of the run; on rank 0.

    The trackers of a resumed run write to the runs that they had. One that cannot resume is named in
    one line of the log, and the run continues without it.

    Args:
        accelerator: What they are started on.
        tracking: Project, group and tags of the run.
        settings: The settings of the run, flat, as they were decided.
        run_name: The name of the run.
        folder: The run directory.
        resumed_from: The step that the run resumes from; 0 if it is new.

    Raises:
        ConfigError: One of them cannot start with a new run.
        OSError: The run directory cannot be written.
    """
    started: list[GeneralTracker] = []
    try:
        runs = TrackedRuns(Path(folder))
        for one in accelerator.log_with:
            name = str(one.name if isinstance(one, GeneralTracker) else one)
            try:
                with _no_questions(), _named(name, folder):
                    arguments = _arguments(name, tracking, run_name, runs)
                    started.append(_started(one, name, tracking.project, arguments, runs, resumed_from))
                    started[-1].store_init_configuration(dict(settings))
                    runs.record(started[-1])
            except Exception as error:  # trackers raise errors of their own: no key, no network, a broken store
                if name == "tensorboard" and isinstance(error, OSError):
                    raise  # about the disk; the caller says which folder
                if not resumed_from:
                    raise ConfigError(
                        f"tracking.trackers: {name} cannot start ({_reason(error)}); set up or remove"
                    ) from None
                logger.warning("%s cannot resume its run (%s); training continues without it", name, _reason(error))
    finally:
        accelerator.trackers = started


def log(accelerator: Accelerator, values: Mapping[str, float], step: int) -> None:
    """Send the values of a step to the trackers; on rank 0.

    A service that does not take them does not end the run: the first failure of each tracker is logged.

    Raises:
        OSError: The run directory cannot be written.
    """
    for tracker in accelerator.trackers:
        try:
            tracker.log(dict(values), step=step)
        except Exception as error:
            if tracker.name == "tensorboard":
                raise
            if not getattr(tracker, "has_failed", False):
                logger.warning("%s does not take the values of step %d (%s)", tracker.name, step, _reason(error))
            tracker.has_failed = True


def finish(accelerator: Accelerator) -> None:
    """End the trackers; a service that fails does not end the run."""
    while accelerator.trackers:
        tracker = accelerator.trackers.pop(0)
        try:
            with _named(tracker.name, getattr(tracker, "logging_dir", "")):
                tracker.finish()
        except Exception as error:
            if tracker.name == "tensorboard":
                raise
            logger.warning("%s did not end well (%s)", tracker.name, _reason(error))


def log_results(accelerator: Accelerator, values: Mapping[str, float]) -> None:
    """Store the results of a finished run beside its settings; on rank 0.

    TensorBoard shows them as HPARAMS. Other trackers show the last value of each metric themselves.

    Raises:
        OSError: The run directory cannot be written.
    """
    for tracker in accelerator.trackers:
        if isinstance(tracker, TensorBoard):
            tracker.store_results(values)


def _arguments(name: str, tracking: TrackingConfig, run_name: str, runs: TrackedRuns) -> dict[str, Any]:
    """The arguments of a tracker besides its project; what it has no place for is logged."""
    if (tracking.group or tracking.tags) and name not in WITH_TAGS:
        logger.info("tracking.group and tracking.tags: %s has them among the settings only", name)
    match name:
        case "wandb":
            more: dict[str, Any] = {"group": tracking.group, "tags": tracking.tags}
            given = {key: value for key, value in more.items() if value}
            return {"name": run_name, "dir": str(runs.folder), "id": runs.run_id, **given}
        case "mlflow":
            tags = {"mlm_dist.run_id": runs.run_id} | dict.fromkeys(tracking.tags, "true")
            return {"run_name": run_name, "run_tags": tags | ({"group": tracking.group} if tracking.group else {})}
        case "trackio":
            return {"name": run_name}
    return {}


def _started(
    one: Any, name: str, project: str, arguments: Mapping[str, Any], runs: TrackedRuns, resumed_from: int
) -> GeneralTracker:
    """A tracker, started; on the run that it had, if it is resumed."""
    of_resume = runs.arguments(name) if resumed_from else None
    if isinstance(one, TensorBoard) and resumed_from:
        one.resume(resumed_from)
    elif resumed_from and of_resume is None:
        logger.info("%s starts a new run: it has none of this run directory, or does not resume", name)
    tracker = one
    if not isinstance(one, GeneralTracker):
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        kind = MLflow if kind is MLflowTracker else kind
        folder = [str(runs.folder)] if kind.requires_logging_directory else []
        tracker = kind(project, *folder, **{**arguments, **(of_resume or {})})
    tracker.start()
    return tracker


def _named(name: str, folder: str) -> contextlib.AbstractContextManager[None]:
    """Errors of the disk name the folder of TensorBoard; what others write is elsewhere."""
    return named(Path(folder)) if name == "tensorboard" else contextlib.nullcontext()


def _reason(error: Exception) -> str:
    """What a tracker says, without the credentials of its server's address."""
    return without_credentials(reason(error))


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
            f"tracking.trackers: wandb has no key ({_reason(error)}); set WANDB_API_KEY, or WANDB_MODE=offline to keep "
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
