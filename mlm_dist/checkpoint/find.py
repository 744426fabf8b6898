"""Which checkpoint of a run directory: the newest good one, the best, and that to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist.checkpoint import format
from mlm_dist.errors import CheckpointError


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint below a folder that verifies, and what was wrong with those that were passed over."""
    passed_over: list[str] = []
    return next(_good(folder, passed_over, newest_first=True), None), passed_over


def best(folder: Path) -> tuple[Path | None, list[str]]:
    """The good checkpoint with the lowest held-out loss below a folder, and what was wrong with those passed over.

    Each says in state.json what was best when it was saved, which is itself where it was validated and better than all
    before it.
    """
    passed_over: list[str] = []
    lowest: tuple[float, Path] | None = None
    for path in _good(folder, passed_over):
        seen = format.read_state(path)[0].best
        loss = seen.loss if seen.step == format.step_of(path) else None
        if loss is not None and (lowest is None or loss < lowest[0]):
            lowest = loss, path
    return None if lowest is None else lowest[1], passed_over


def _good(folder: Path, passed_over: list[str], *, newest_first: bool = False) -> Iterator[Path]:
    """The checkpoints below a folder that verify, by their updates; what is wrong with others joins `passed_over`."""
    for path in sorted(format.published(folder), key=format.step_of, reverse=newest_first):
        try:
            format.verify(path)
        except CheckpointError as error:
            passed_over.append(str(error))
        else:
            yield path


def require_newest(folder: Path, say: Callable[[str], None]) -> Path:
    """The newest checkpoint below a folder that verifies, for jobs that read it; those passed over are named.

    Raises:
        CheckpointError: There is none.
    """
    otherwise = f"output_dir: there is no good checkpoint in {folder}; name the directory of a run"
    return _require(newest(folder), otherwise, say)


def require_best(folder: Path, say: Callable[[str], None]) -> Path:
    """The good checkpoint with the lowest held-out loss below a folder; those passed over are named.

    Raises:
        CheckpointError: There is none.
    """
    otherwise = f"export.checkpoint: no good checkpoint in {folder} is known to be the best; export newest, or name one"
    return _require(best(folder), otherwise, say)


def _require(found: tuple[Path | None, list[str]], otherwise: str, say: Callable[[str], None]) -> Path:
    path, passed_over = found
    for reason in passed_over:
        say(f"WARNING: passed over a checkpoint: {reason}")
    if path is None:
        raise CheckpointError(otherwise)
    return path


def resume_point(
    accelerator: Accelerator, resume: str, folder: Path, identity: Mapping[str, Any], say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to go on from, or None for a new run; a collective, in which the main process looks.

    Args:
        accelerator: The processes.
        resume: auto (the newest good one in the folder), never, or a path.
        folder: `checkpoints/` of the run directory.
        identity: What it must have in common with this run.
        say: Takes lines for the person at the screen.

    Raises:
        CheckpointError: There are checkpoints and none of them is good, the one that is named is not, or it belongs to
            another run.
    """
    found: Path | None = None
    failure: CheckpointError | None = None
    if accelerator.is_main_process:
        try:
            found = _look(resume, folder, say)
            if found is not None:
                format.require_same(format.read_state(found)[1], identity, found)
        except CheckpointError as error:
            failure = error
    step = -2 if failure is not None else -1 if found is None else format.step_of(found)
    agreed = torch.tensor(step if accelerator.is_main_process else 0, device=accelerator.device)
    step = int(accelerator.reduce(agreed, "sum"))
    if step == -2:
        raise failure or CheckpointError("checkpoint.resume: see the error of rank 0")
    if step == -1:
        return None
    return folder / format.name_of(step) if resume == "auto" else Path(resume).expanduser()


def _look(resume: str, folder: Path, say: Callable[[str], None]) -> Path | None:
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume).expanduser()
        if not format.is_name(path.name) or not path.is_dir():
            raise CheckpointError(f"checkpoint.resume: {resume} is no checkpoint; name a folder such as step-00000500")
        format.verify(path)
        return path
    found, passed_over = newest(folder)
    for reason in passed_over:
        say(f"WARNING: passed over a checkpoint: {reason}")
    if found is None and passed_over:
        raise CheckpointError(
            f"checkpoint.resume: no checkpoint in {folder} is good ({passed_over[0]}); restore one, or start anew with "
            "--checkpoint.resume never"
        )
    return found


def set_aside(run: Path, point: Path | None = None) -> Path | None:
    """Move what does not belong to this run out of its directory, to `previous-N/`.

    That is all of an earlier run where a new one begins (or one goes on from a checkpoint elsewhere), and the
    checkpoints after `point` where this run goes back to it.

    Returns:
        Where things went, or None where nothing was in the way.
    """
    folder = run / "checkpoints"
    if point is not None and point.resolve().parent == folder.resolve():
        there = [path for path in format.published(folder) if format.step_of(path) > format.step_of(point)]
    else:
        names = (
            *("checkpoints", "metrics.jsonl", "tensorboard", "model", "config.yaml"),
            *("report.json", "report.html", "validation.json", "probe.json"),
        )
        there = [path for name in names if (path := run / name).exists()]
    if not there:
        return None
    number = 1
    while (run / f"previous-{number}").exists():
        number += 1
    place = run / f"previous-{number}"
    place.mkdir()
    for path in there:
        path.rename(place / path.name)
    return place
