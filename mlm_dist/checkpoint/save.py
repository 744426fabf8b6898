"""Writing checkpoints: gathered on all processes, written by one, published whole while training goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mlm_dist import __version__, faults
from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.best import Best
from mlm_dist.checkpoint.format import RunState
from mlm_dist.checkpoint.tensor_file import TensorFileWriter
from mlm_dist.engine import distributed
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of


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
        if not self._keep_best or (seen.step is not None and (self._folder / format.name_of(seen.step)).is_dir()):
            return seen
        return Best()

    def save(self, accelerator: Accelerator, core: nn.Module, optimizer: Any, state: RunState) -> None:
        """Write a checkpoint; a collective.

        Raises:
            CheckpointError: It cannot be written, or the one before could not; on every process.
        """
        self.finish(accelerator)
        failure: OSError | None = None
        temporary = self._folder / f".{format.name_of(state.step)}"
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
        shutil.rmtree(self._folder / f".{format.name_of(step)}", ignore_errors=True)
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
                "format": format.FORMAT,
                "versions": {"mlm_dist": __version__, "torch": torch.__version__, **distributed.library_versions()},
                "files": {name: _described(temporary / name) for name in format.FILES},
            }
            signed = manifest | {"sha256": format.digest(manifest)}
            (temporary / "manifest.json").write_text(json.dumps(signed, indent=1), "utf-8")
            _fsync(temporary / "manifest.json")
            _fsync(temporary)
            faults.kill_here("before_rename", step)
            place = self._folder / format.name_of(step)
            shutil.rmtree(place, ignore_errors=True)
            temporary.rename(place)
            _fsync(self._folder)
            faults.kill_here("after_rename", step)
            others = [path for path in format.published(self._folder) if path != place]
            others.sort(key=format.step_of)
            best_step = facts["best"]["step"] if self._keep_best else None
            for old in others[: max(0, len(others) - (self._keep_last - 1))]:
                if format.step_of(old) == best_step:
                    continue
                shutil.rmtree(old, ignore_errors=True)  # what cannot go now goes after the next save
        except BaseException as error:  # the main thread raises it on every process
            self._failure = error


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
    step = format.step_of(temporary)
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


def _described(path: Path) -> dict[str, Any]:
    _fsync(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
