"""Finding checkpoints in a run directory: the newest good one, the best one, and the one to resume from."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_dist.checkpoint import format, same_run
from mlm_dist.checkpoint.remote_checkpoints import RemoteCheckpoints
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import CheckpointError
from mlm_dist.spec import CheckpointSpec, PhaseSpec

logger = logging.getLogger(__name__)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint below a folder, and what is wrong with newer ones."""
    problems: list[str] = []
    return next(_good(folder, problems, newest_first=True), None), problems


def best(folder: Path) -> tuple[Path | None, list[str]]:
    """The good checkpoint with the lowest validation loss below a folder, and what is wrong with others.

    The state of each checkpoint names the best step when it was saved: its own if it was better than all before it.
    Losses on other rows than those of the newest one are not compared.
    """
    problems: list[str] = []
    best_ones: list[tuple[float, Path]] = []
    rows: str | None = None
    for path in _good(folder, problems):
        seen = format.read_state(path)["best"]
        if seen.get("rows") != rows:
            best_ones, rows = [], seen.get("rows")
        if seen["step"] == format.step_of(path) and seen["loss"] is not None:
            best_ones.append((seen["loss"], path))
    return min(best_ones, key=lambda one: one[0])[1] if best_ones else None, problems


def _good(folder: Path, problems: list[str], *, newest_first: bool = False) -> Iterator[Path]:
    """The good checkpoints below a folder, by step; what is wrong with others is added to `problems`."""
    for path in sorted(format.published(folder), key=format.step_of, reverse=newest_first):
        try:
            format.verify(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            yield path


def require_last(folder: Path, count: int, every: int | None) -> list[Path]:
    """The newest good checkpoints below a folder, by step: `count`, or as many as there are.

    Before the newest, those that a signal made are passed over: the result is that of a run without interruptions.

    Args:
        folder: `checkpoints/` of the run directory.
        count: How many.
        every: Steps between checkpoints; None takes all.

    Raises:
        CheckpointError: There is none.
    """
    problems: list[str] = []
    good = _good(folder, problems, newest_first=True)
    first = next(good, None)
    newest = _require((first, problems), f"output_dir: no good checkpoint in {folder}; name the directory of a run")
    planned = (path for path in good if every is None or format.step_of(path) % every == 0)
    return [*reversed([*itertools.islice(planned, count - 1)]), newest]


def require_newest(folder: Path) -> Path:
    """The newest good checkpoint below a folder; logs those that are not good.

    Raises:
        CheckpointError: There is none.
    """
    return _require(newest(folder), f"output_dir: no good checkpoint in {folder}; name the directory of a run")


def require_best(folder: Path) -> Path:
    """The good checkpoint with the lowest validation loss below a folder; logs those that are not good.

    Raises:
        CheckpointError: There is none.
    """
    message = f"export.checkpoint: no good checkpoint in {folder} is known to be the best; export newest, or name one"
    return _require(best(folder), message)


def _require(result: tuple[Path | None, list[str]], message: str) -> Path:
    path, problems = result
    _warn(problems)
    if path is None:
        raise CheckpointError(message)
    return path


def _warn(problems: list[str]) -> None:
    for problem in problems:
        logger.warning("skipped a checkpoint that is not good: %s", problem)


def to_resume(
    engine: Engine,
    spec: CheckpointSpec,
    folder: Path,
    identity: Mapping[str, Any],
    phases: Sequence[PhaseSpec],
    patience: int | None = None,
) -> Path | None:
    """The checkpoint to resume from, or None for a new run; collective, rank 0 looks.

    Args:
        engine: The engine.
        spec: Its `resume` is auto (the newest good one in the folder or the store), never, or a path. A checkpoint of
            another run begins this one, so if this one has checkpoints already, its newest good one is taken.
        folder: `checkpoints/` of the run directory.
        identity: What it must have in common with this run.
        phases: The phases of this run.
        patience: `validation.patience` of this run.

    Raises:
        CheckpointError: There are checkpoints and none of them is good, the named one is not good, it belongs to
            another run, or has more steps than this run; on rank 0.
        PeerError: The same, on the other ranks.
    """

    def look() -> str | None:
        if spec.store is not None and not names_own(spec.resume, folder):
            remote = RemoteCheckpoints(spec.store)
            remote.fetch(folder.parent, lambda state: same_run.require_same(state, identity, phases))
        path = _look(spec.resume, folder)
        if path is None:
            return None
        same_run.require_same(path, identity, phases)
        same_run.require_patience(path, phases, patience)
        step = format.step_of(path)
        if same_run.is_end(path, phases):
            logger.info("the run is finished: all %s steps are done; the model is exported again", f"{step:,}")
        return str(path)

    found = engine.on_main(look)  # it reads all of the checkpoint, and of newer ones that are damaged
    return None if found is None else Path(found)


def _look(resume: str, folder: Path) -> Path | None:
    if resume == "never":
        return None
    if resume != "auto":
        if begins_at(resume, folder):
            return named(resume, "checkpoint.resume")
        logger.info("this run has checkpoints of its own, so it does not begin again from %s", resume)
    path, problems = newest(folder)
    _warn(problems)
    if path is None and problems:
        raise CheckpointError(
            f"checkpoint.resume: no checkpoint in {folder} is good ({problems[0]}); restore one, or start fresh with "
            "--checkpoint.resume never"
        )
    return path


def check(spec: CheckpointSpec, folder: Path) -> None:
    """Refuse a folder to resume from that is no checkpoint, and a store that a run that starts fresh cannot use.

    Raises:
        CheckpointError: Names the key and the remedy.
        ConfigError: The store cannot be read.
    """
    has_stored = False
    if spec.store is not None:
        remote = RemoteCheckpoints(spec.store)
        if spec.resume == "never":
            remote.refuse()
        else:
            has_stored = bool(remote.steps()) and not names_own(spec.resume, folder)
    is_another = has_stored and format.is_name(Path(spec.resume).name)  # which may be gone by now
    if begins_at(spec.resume, folder) and not is_another:
        folder_of(spec.resume, "checkpoint.resume")


def begins_at(resume: str, folder: Path) -> bool:
    """Whether a run resumes from the folder that `resume` names.

    It does not if that is a checkpoint of another run, which may be gone by now, and the run has some of its own.

    Args:
        resume: auto, never or a path.
        folder: `checkpoints/` of the run directory.
    """
    if resume in ("auto", "never"):
        return False
    is_of_another = format.is_name(Path(resume).name) and not names_own(resume, folder)
    return not (is_of_another and format.published(folder))


def names_own(resume: str, folder: Path) -> bool:
    """Whether `resume` names a checkpoint in the folder of the run's own."""
    return format.is_name(Path(resume).name) and Path(resume).expanduser().resolve().parent == folder.resolve()


def folder_of(name: str, key: str) -> Path:
    """The folder of a checkpoint that a config key names; it is not verified.

    Raises:
        CheckpointError: The folder is no checkpoint; names the newest one below it, if there is one.
    """
    path = Path(name).expanduser()
    if format.is_name(path.name) and path.is_dir():
        return path
    below = [*format.published(path), *format.published(path / "checkpoints"), *format.published(path.parent)]
    example = max(below, key=format.step_of, default="a folder such as step-00000500")
    raise CheckpointError(f"{key}: {name} is no checkpoint; name {example}")


def named(name: str, key: str) -> Path:
    """The verified checkpoint of a folder that a config key names.

    Raises:
        CheckpointError: The folder is no checkpoint, or not a good one.
    """
    path = folder_of(name, key)
    format.verify(path)
    return path
