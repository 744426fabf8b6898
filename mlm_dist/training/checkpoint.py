"""Portable checkpoints: fp32 weights and moments in safetensors, the rest in JSON; any topology reads any other's.

A checkpoint is a folder `step-00000100` with model.safetensors, optimizer.safetensors, state.json and manifest.json. It
is written under another name and appears under its own in one step, when all of it is on the disk. No pickle is written
or read, and no random state is kept: what a run needs besides these follows from (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mlm_dist import __version__, faults
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of
from mlm_dist.training import distributed
from mlm_dist.training.best import Best
from mlm_dist.training.tensor_file import TensorFileWriter

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})")
# What runs were whose checkpoints do not say it, because they are older than the key.
_BEFORE: dict[str, Any] = {
    "masking.unit": "token",
    "masking.final_probability": None,
    "model.freeze_embeddings": False,
    "optim.name": "adamw",
    "batch.ramp_tokens": [None, None, None],
}


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Args:
        step: Updates done, left-out ones included.
        samples: Samples consumed.
        tokens: Tokens consumed.
        skipped_steps: Updates left out because a number was not finite.
        loss_scale: fp16's scale and the updates since it last changed; None in other precisions.
        seconds: With `optim.hours`, time used from the first update on, else 0.
        horizon: With `optim.hours`, these and the updates they were last estimated to hold.
        best: The validation with the lowest held-out loss so far.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    loss_scale: tuple[float, int] | None = None
    seconds: float = 0.0
    horizon: tuple[float, int] | None = None
    best: Best = field(default_factory=Best)


def verify(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and hold every file against it.

    Raises:
        CheckpointError: Something is missing, added or changed; the message names the file.
    """
    try:
        if (folder / "manifest.json").is_symlink():
            raise ValueError
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        promised = manifest.pop("sha256")
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / 'manifest.json'} is missing or not a manifest") from None
    if promised != _digest(manifest):
        raise CheckpointError(f"{folder / 'manifest.json'} was changed")
    if version != FORMAT:
        raise CheckpointError(f"{folder} has format {version}; this version reads format {FORMAT}")
    there = {path.name for path in folder.iterdir()}
    for name in sorted(there ^ {*files, "manifest.json"}):
        raise CheckpointError(f"{folder / name} is {'not part of the checkpoint' if name in there else 'missing'}")
    for name, (size, sha256) in files.items():
        path = folder / name
        try:
            good = not path.is_symlink() and path.stat().st_size == size and sha256_of(path) == sha256
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
        if not good:
            raise CheckpointError(f"{path} is damaged: it is not what the manifest says")
    return manifest


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint below a folder that verifies, and what was wrong with those that were passed over."""
    passed_over = []
    for path in sorted(_published(folder), key=_step_of, reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        return path, passed_over
    return None, passed_over


def best(folder: Path) -> tuple[Path | None, list[str]]:
    """The good checkpoint with the lowest held-out loss below a folder, and what was wrong with those passed over.

    Each says in state.json what was best when it was saved, which is itself where it was validated and better than all
    before it.
    """
    passed_over, lowest = [], None
    for path in sorted(_published(folder), key=_step_of):
        try:
            verify(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        seen = read_state(path)[0].best
        if seen.step == _step_of(path) and seen.loss is not None and (lowest is None or seen.loss < lowest[0]):
            lowest = seen.loss, path
    return None if lowest is None else lowest[1], passed_over


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


def is_name(name: str) -> bool:
    """Whether a folder of this name can be a checkpoint."""
    return _NAME.fullmatch(name) is not None


def read_state(folder: Path) -> tuple[RunState, dict[str, Any]]:
    """How far a verified checkpoint is, and the identity of its run."""
    found = json.loads((folder / "state.json").read_text("utf-8"))
    identity: dict[str, Any] = found.pop("identity")
    pairs = {name: found.pop(name, None) for name in ("loss_scale", "horizon")}
    read: dict[str, Any] = {name: pair and (float(pair[0]), int(pair[1])) for name, pair in pairs.items()}
    seen = Best(**found.pop("best", {}))  # older checkpoints do not know
    return RunState(**found, **read, best=seen), identity


def require_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on from a run of another identity.

    Raises:
        CheckpointError: Names the first key that differs, and the flag that starts anew.
    """
    theirs = {**_BEFORE, **theirs}
    for key in ours:
        if key.startswith("model.overrides.") and key not in theirs:
            continue  # a field that a newer library has added to its configurations
        if theirs.get(key) != ours[key]:
            raise CheckpointError(
                f"{key}: {folder} was made with {theirs.get(key)}, now it is {ours[key]}; set it back, name another "
                "output_dir, or start anew with --checkpoint.resume never"
            )


def load_weights(folder: Path, core: nn.Module) -> None:
    """Put a checkpoint's weights into a model that is not prepared yet."""
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in core.named_parameters():
            if name not in names:
                raise CheckpointError(f"{folder / 'model.safetensors'} has no {name}; it is of another model")
            value = file.get_tensor(name)
            if value.shape != parameter.shape:
                raise CheckpointError(f"{folder / 'model.safetensors'}: {name} is of another shape; of another model")
            parameter.copy_(value)


def load_moments(folder: Path, accelerator: Accelerator, core: nn.Module, optimizer: Any, state: RunState) -> None:
    """Put a checkpoint's fp32 weights and moments where the prepared optimizer keeps them; a collective."""
    from safetensors import safe_open

    with (
        safe_open(str(folder / "model.safetensors"), framework="pt") as weights,
        safe_open(str(folder / "optimizer.safetensors"), framework="pt") as moments,
    ):
        distributed.set_full_state(
            accelerator,
            core,
            optimizer,
            weights=weights.get_tensor,
            # A copy: what the library gives is a view of the file, which would keep a removed checkpoint on the disk.
            moments=lambda key, name: moments.get_tensor(f"{key}/{name}").clone(),
            num_steps=state.step - state.skipped_steps,
            loss_scale=state.loss_scale,
        )


class Checkpoints:
    """The checkpoints of one run. Made and called on every process; the first writes.

    `save` returns when the values are in files. Hashing, waiting for the disk, the rename and the removal of old
    checkpoints go on in a thread while training does.

    Args:
        folder: `checkpoints/` of the run directory.
        keep_last: Checkpoints to keep.
        identity: {config key: value} of what a run must have in common with one that goes on from it.
        keep_best: Whether that of the best validation is kept in addition.
    """

    def __init__(self, folder: Path, keep_last: int, identity: Mapping[str, Any], *, keep_best: bool = False) -> None:
        self._folder, self._keep_last, self._identity = folder, keep_last, dict(identity)
        self._keep_best = keep_best
        self._publishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.last_step = -1

    def clean(self) -> None:
        """Remove what interrupted saves and exports left."""
        for path in (*self._folder.glob(".step-*"), *self._folder.parent.glob(".model-*")):
            shutil.rmtree(path, ignore_errors=True)

    def still_there(self, seen: Best) -> Best:
        """What a checkpoint says is best, if that is in the folder; else a run that goes on has no best one yet."""
        if not self._keep_best or (seen.step is not None and (self._folder / _name(seen.step)).is_dir()):
            return seen
        return Best()

    def save(self, accelerator: Accelerator, core: nn.Module, optimizer: Any, state: RunState) -> None:
        """Write a checkpoint; a collective.

        Raises:
            CheckpointError: It cannot be written, or the one before could not; on every process.
        """
        self.finish(accelerator)
        failure: OSError | None = None
        temporary = self._folder / f".{_name(state.step)}"
        writing = _write(temporary, accelerator, core, optimizer)
        try:
            if accelerator.is_main_process:
                self._folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
        except OSError as error:
            failure = error
        # The values are gathered on all processes together, so a failure must not end the loop on one of them.
        for write in writing:
            if accelerator.is_main_process and failure is None:
                try:
                    write()
                except OSError as error:
                    failure = error
        self._agree(accelerator, failure, state.step)
        self.last_step = state.step
        if accelerator.is_main_process:
            facts = asdict(state) | {"identity": self._identity}
            self._publishing = threading.Thread(target=self._publish, args=(temporary, facts), daemon=False)
            self._publishing.start()

    def finish(self, accelerator: Accelerator) -> None:
        """Wait until the last checkpoint is published; a collective.

        Raises:
            CheckpointError: It could not be; on every process.
        """
        if self._publishing is not None:
            self._publishing.join()
            self._publishing = None
        self._agree(accelerator, self._failure, self.last_step)

    def _agree(self, accelerator: Accelerator, failure: BaseException | None, step: int) -> None:
        failed = torch.tensor(float(failure is not None), device=accelerator.device)
        if not float(accelerator.reduce(failed, "sum")):
            return
        reason = "" if failure is None else f" ({getattr(failure, 'strerror', None) or failure})"
        shutil.rmtree(self._folder / f".{_name(step)}", ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written to {self._folder}{reason}; the last good one is "
            "intact: make room or name another output_dir, and run again"
        )

    def _publish(self, temporary: Path, facts: dict[str, Any]) -> None:
        try:
            step = int(facts["step"])
            (temporary / "state.json").write_text(json.dumps(facts, indent=1), "utf-8")
            faults.kill_here("after_state", step)
            manifest = {
                "format": FORMAT,
                "versions": {"mlm_dist": __version__, "torch": torch.__version__, **distributed.library_versions()},
                "files": {name: _described(temporary / name) for name in FILES},
            }
            signed = manifest | {"sha256": _digest(manifest)}
            (temporary / "manifest.json").write_text(json.dumps(signed, indent=1), "utf-8")
            _fsync(temporary / "manifest.json")
            _fsync(temporary)
            faults.kill_here("before_rename", step)
            place = self._folder / _name(step)
            shutil.rmtree(place, ignore_errors=True)
            temporary.rename(place)
            _fsync(self._folder)
            faults.kill_here("after_rename", step)
            others = sorted((path for path in _published(self._folder) if path != place), key=_step_of)
            best_step = facts["best"]["step"] if self._keep_best else None
            for old in others[: max(0, len(others) - (self._keep_last - 1))]:
                if _step_of(old) == best_step:
                    continue
                shutil.rmtree(old, ignore_errors=True)  # what cannot go now goes after the next save
        except BaseException as error:  # the main thread raises it on every process
            self._failure = error


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
                require_same(read_state(found)[1], identity, found)
        except CheckpointError as error:
            failure = error
    step = -2 if failure is not None else -1 if found is None else _step_of(found)
    agreed = torch.tensor(step if accelerator.is_main_process else 0, device=accelerator.device)
    step = int(accelerator.reduce(agreed, "sum"))
    if step == -2:
        raise failure or CheckpointError("checkpoint.resume: see the error of rank 0")
    if step == -1:
        return None
    return folder / _name(step) if resume == "auto" else Path(resume).expanduser()


def _look(resume: str, folder: Path, say: Callable[[str], None]) -> Path | None:
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume).expanduser()
        if not _NAME.fullmatch(path.name) or not path.is_dir():
            raise CheckpointError(f"checkpoint.resume: {resume} is no checkpoint; name a folder such as step-00000500")
        verify(path)
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


def disk_needed(num_parameters: int, keep_last: int) -> int:
    """Bytes of the checkpoints to keep, one more (a new one comes before an old one goes), and the exported model.

    Two moments of each parameter are counted, which is the most that any optimizer keeps.
    """
    one = 4 * num_parameters * (1 + 2)
    return (keep_last + 1) * one + 4 * num_parameters


def preflight(run: Path, core: nn.Module, keep_last: int = 1) -> None:
    """Refuse to start where the disk cannot hold the checkpoints to keep, one more, and the exported model.

    Raises:
        CheckpointError: Names the folder, what is needed and what is there.
    """
    needed = disk_needed(sum(parameter.numel() for parameter in core.parameters()), keep_last)
    replaced = ("checkpoints/*/*", "model/*")
    old = sum(path.stat().st_size for pattern in replaced for path in run.glob(pattern))
    free = shutil.disk_usage(run).free
    if free + old < needed:
        raise CheckpointError(
            f"output_dir: {keep_last + 1} checkpoints and the model need {needed / 2**20:,.0f} MiB, but {run} has "
            f"{free / 2**20:,.0f} MiB free; make room or name another folder"
        )


def set_aside(run: Path, point: Path | None = None) -> Path | None:
    """Move what does not belong to this run out of its directory, to `previous-N/`.

    That is all of an earlier run where a new one begins (or one goes on from a checkpoint elsewhere), and the
    checkpoints after `point` where this run goes back to it.

    Returns:
        Where things went, or None where nothing was in the way.
    """
    folder = run / "checkpoints"
    if point is not None and point.resolve().parent == folder.resolve():
        there = [path for path in _published(folder) if _step_of(path) > _step_of(point)]
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


def _write(temporary: Path, accelerator: Accelerator, core: nn.Module, optimizer: Any) -> Iterator[Any]:
    """Gather one tensor after the other, and yield what the main process has to do to write each."""
    shapes = distributed.full_shapes(core)
    moments = distributed.moments_of(accelerator, core, optimizer)
    names = [f"{key}/{name}" for name, keys in moments.items() for key in keys]
    files: dict[str, TensorFileWriter] = {}
    contents = {
        "model.safetensors": (shapes, distributed.full_parameters(accelerator, core)),
        "optimizer.safetensors": (
            {name: shapes[name.split("/", 1)[1]] for name in names},
            distributed.full_moments(accelerator, core, optimizer),
        ),
    }
    step = int(temporary.name.rsplit("-", 1)[1])
    try:
        for file, (expected, values) in contents.items():

            def open_file(file: str = file, expected: Any = expected) -> None:
                files[file] = TensorFileWriter(temporary / file, expected)

            yield open_file
            for name, value in values:
                yield lambda file=file, name=name, value=value: files[file].write(name, value)
            yield lambda file=file: files[file].finish()
            yield lambda file=file: faults.kill_here(f"after_{file.split('.')[0]}", step)
    finally:
        for writer in files.values():
            writer.close()


def _published(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _described(path: Path) -> dict[str, Any]:
    _fsync(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
