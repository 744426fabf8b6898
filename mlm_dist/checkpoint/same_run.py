"""Whether a checkpoint belongs to a run: what has been trained so far must be what the run would have trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.state import Best
from mlm_dist.errors import CheckpointError
from mlm_dist.spec import PhaseSpec, num_steps

NAME, DURATION = "name", "optim.duration"  # in the identity of a phase; not compared as its other values are
_ADDED = {"corpus.rows_from": "disk"}  # values that the identities of older checkpoints do not name
REMEDY = "set it back, choose another output_dir, or start fresh with --checkpoint.resume never"


def require_same(folder: Path, identity: Mapping[str, Any], phases: Sequence[PhaseSpec]) -> None:
    """Refuse to resume from a checkpoint of a run that trained something else up to there.

    The values of the run must be the same, and those of all phases that have begun. A phase keeps its name; the only
    phase of a run without phases may get one. A phase that has ended must have had as many steps, or the same duration
    in hours. Phases that have not begun are not compared: a run can be extended.

    Args:
        folder: The checkpoint.
        identity: The identity of this run, see `training.identity`.
        phases: The phases of this run.

    Raises:
        CheckpointError: Names the first key that differs, and the remedy; or this run is shorter.
    """
    state = format.read_state(folder)
    saved, starts, step = state["identity"], [start[0] for start in state["phases"]], state["step"]
    _compare({key: value for key, value in identity.items() if key not in ("phases", "corpus")}, saved, folder, None)
    if len(starts) > len(phases):
        raise CheckpointError(f"phases: {folder} is in phase {len(starts)}, but there are {len(phases)}; {REMEDY}")
    for i, begun in enumerate(phases[: len(starts)]):
        now, then = identity["phases"][i], saved["phases"][i]
        _compare({key: value for key, value in now.items() if key not in (NAME, DURATION)}, then, folder, begun)
        if then.get(NAME):
            _compare({NAME: now[NAME]}, then, folder, begun)
        duration, steps, has_ended = begun.key(DURATION), begun.length.steps, i + 1 < len(starts)
        if has_ended and steps is None:
            _compare({DURATION: now[DURATION]}, then, folder, begun)
        if has_ended and steps not in (None, starts[i + 1] - starts[i]):
            ended = starts[i + 1] - starts[i]
            raise CheckpointError(
                f"{duration}: {steps:,} steps, but {folder} ended this phase after {ended:,}; {REMEDY}"
            )
        if not has_ended and steps is not None and step > starts[i] + steps:
            raise CheckpointError(
                f"{duration}: {steps:,} steps, but {folder} has {step - starts[i]:,} already; choose a "
                "longer duration or another output_dir, or start fresh with --checkpoint.resume never"
            )


def require_patience(folder: Path, phases: Sequence[PhaseSpec], patience: int | None) -> None:
    """Refuse more phases after a checkpoint at which `validation.patience` ended the run: they would not be trained.

    Raises:
        CheckpointError: Names the remedy.
    """
    state = format.read_state(folder)
    num_known = len(state["identity"]["phases"])
    if len(phases) > num_known and Best(**state["best"]).ends_training(patience):
        raise CheckpointError(
            f"validation.patience: {patience} ended the run at {folder}, so phase {phases[num_known].name} would not "
            "be trained; raise it, or set it to null"
        )


def is_end(folder: Path, phases: Sequence[PhaseSpec]) -> bool:
    """Whether a checkpoint of a run, see `require_same`, is that of its last step, as far as that is known."""
    state = format.read_state(folder)
    begun = len(state["phases"])
    left = num_steps(phases[begun - 1 :])
    return begun <= len(phases) and left is not None and bool(state["step"] == state["phases"][-1][0] + left)


def _compare(identity: Mapping[str, Any], saved: Mapping[str, Any], folder: Path, phase: PhaseSpec | None) -> None:
    for name, value in identity.items():
        if name.startswith("model.overrides.") and name not in saved:
            continue  # a field that a newer library has added to its configurations
        then = saved.get(name, _ADDED.get(name))
        if then != value:
            key = name if phase is None else phase.key(name)
            raise CheckpointError(f"{key}: {folder} was made with {then}, now it is {value}; {REMEDY}")
