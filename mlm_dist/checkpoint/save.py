"""Saving checkpoints: gathered on rank 0, written by it, published whole while training continues."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mlm_dist import __version__, faults
from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.host_buffer import HostBuffer
from mlm_dist.checkpoint.mirror import Mirror
from mlm_dist.checkpoint.state import Best, TrainState
from mlm_dist.checkpoint.weights_and_moments import Shapes, TensorFiles, contents
from mlm_dist.engine.base import library_versions
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of, sync
from mlm_dist.spec import BatchSpec, CheckpointSpec


class Checkpoints:
    """The checkpoints of one run. Every rank makes one and calls it; rank 0 writes.

    `save` returns when the values are in files, or staged. A thread writes what is staged, computes hashes, waits for
    the disk, renames the folder and removes old checkpoints while training continues. What goes wrong in the thread is
    raised by the next save, or at the end of the run.

    Args:
        folder: `checkpoints/` of the run directory.
        spec: How many checkpoints to keep.
        identity: {config key: value} of what a resume must have in common with this run.
        batches: How a global batch is spread, in each phase.
        buffer: Host memory that takes the values from a GPU; None writes them to the files in `save`.
    """

    def __init__(
        self,
        folder: Path,
        spec: CheckpointSpec,
        identity: Mapping[str, Any],
        batches: Sequence[BatchSpec],
        buffer: HostBuffer | None = None,
    ) -> None:
        self._folder, self._spec, self._identity, self._batches = folder, spec, dict(identity), batches
        self._buffer = buffer
        self._mirror = Mirror(spec.store, folder)
        self._publishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.last_step = -1

    def known_best(self, best: Best) -> Best:
        """The best validation of a resumed run: none yet if its checkpoint is to be exported and is gone."""
        is_known = best.step is not None and (self._folder / format.name_of(best.step)).is_dir()
        return best if is_known or not self._spec.keep_best else Best(rows=best.rows)

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint of the engine's model and optimizer; collective.

        Raises:
            CheckpointError: It cannot be written, or the one before could not; on rank 0.
            PeerError: The same, on the other ranks.
        """
        self.finish(engine)
        files: TensorFiles | None = None
        failure: OSError | None = None
        content = dataclasses.replace(state, loss_scale=engine.loss_scale).to_json()
        temporary = self._folder / f".{format.name_of(state.step)}"
        values = contents(engine)
        try:
            if engine.is_main:
                files = self._begin(temporary, {file: shapes for file, (shapes, _) in values.items()})
        except OSError as error:
            failure = error
        try:
            # All ranks gather the values together, so a failure must not end the loop on one of them.
            for file, (_, gathered) in values.items():
                for name, value in gathered():
                    if files is not None and value is not None and failure is None:
                        try:
                            files.write(file, name, value)
                        except OSError as error:
                            failure = error
                if engine.is_main and failure is None:
                    faults.kill_here(f"after_{file.split('.')[0]}", state.step)
            self.last_step = state.step
            engine.on_main(lambda: self._check(failure))
        except BaseException:
            if files is not None:
                files.close()
            raise
        if files is not None:
            self._publishing = threading.Thread(target=self._publish, args=(temporary, files, content), daemon=False)
            self._publishing.start()

    def finish(self, engine: Engine) -> None:
        """Wait until the last checkpoint is published; collective.

        Raises:
            CheckpointError: It could not be published; on rank 0.
            PeerError: The same, on the other ranks.
        """

        def published() -> None:
            self._join()
            self._check(self._failure)

        engine.on_main(published)

    def end(self, engine: Engine) -> None:
        """Wait until the last checkpoint is published, and the store is up to date; collective.

        Raises:
            CheckpointError: It could not be published; on rank 0.
            PeerError: The same, on the other ranks.
        """
        self.finish(engine)
        engine.on_main(self.wait)

    def wait(self) -> None:
        """Wait for the threads of the last save, whether it succeeds or not; not collective."""
        self._join()
        self._mirror.wait()

    def _join(self) -> None:
        if self._publishing is not None:
            self._publishing.join()
            self._publishing = None

    def before_divergence(self, good_step: int) -> Path | None:
        """The newest checkpoint up to a step; None if there is none."""
        good = [path for path in format.published(self._folder) if format.step_of(path) <= good_step]
        return max(good, key=format.step_of, default=None)

    def _begin(self, temporary: Path, shapes: Mapping[str, Shapes]) -> TensorFiles:
        """Make the folder and its tensor files, if the disk has space for them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # Staged values are written later, when training has gone on: a full disk would be noticed then.
        size = sum(4 * math.prod(shape) for tensors in shapes.values() for shape in tensors.values())
        if shutil.disk_usage(self._folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._buffer is not None:
            self._buffer.clear()
        return TensorFiles(temporary, shapes, self._buffer)

    def _check(self, failure: BaseException | None) -> None:
        """Raise a CheckpointError for what went wrong with the last checkpoint, and remove what there is of it."""
        if failure is None:
            return
        reason = getattr(failure, "strerror", None) or failure
        shutil.rmtree(self._folder / f".{format.name_of(self.last_step)}", ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {self.last_step} cannot be written to {self._folder} ({reason}); the last good "
            "one is intact: free some space or choose another output_dir, and run again"
        )

    def _publish(self, temporary: Path, files: TensorFiles, state: dict[str, Any]) -> None:
        try:
            step = int(state["step"])
            files.finish()
            micro_batch = self._batches[len(state["phases"]) - 1].micro_size
            format.write_state(temporary, state, self._identity, micro_batch)
            faults.kill_here("after_state", step)
            manifest = {
                "format": format.FORMAT,
                "versions": {"mlm_dist": __version__, "torch": torch.__version__, **library_versions()},
                "files": {name: _describe(temporary / name) for name in format.FILES},
            }
            signed = manifest | {"sha256": format.digest(manifest)}
            (temporary / "manifest.json").write_text(json.dumps(signed, indent=1), "utf-8")
            sync(temporary / "manifest.json")
            sync(temporary)
            faults.kill_here("before_rename", step)
            target = self._folder / format.name_of(step)
            if target.is_dir():
                _remove(target)
            temporary.rename(target)
            sync(self._folder)
            faults.kill_here("after_rename", step)
            self._mirror.update()
            self._remove_old(target, state)
        except BaseException as error:  # the main thread raises it on every rank
            self._failure = error

    def tidy(self, state: TrainState) -> None:
        """Remove old checkpoints that an earlier launch could not remove; on rank 0, before the first step.

        Raises:
            ConfigError: `checkpoint.store` cannot be written to.
        """
        newest = max(format.published(self._folder), key=format.step_of, default=None)
        if newest is not None and format.step_of(newest) == state.step:
            self._remove_old(newest, state.to_json())
        self._mirror.begin()

    def _remove_old(self, newest: Path, state: Mapping[str, Any]) -> None:
        others = [path for path in format.published(self._folder) if path != newest]
        others.sort(key=format.step_of)
        has_diverged = state["divergence"]["has_begun"] or state["skipped_in_a_row"] > 0
        kept = {step for step, _ in state["phases"]}  # a run can be extended from where a phase has ended
        if self._spec.keep_best or has_diverged:
            kept.add(state["best"]["step"])
        if has_diverged and (good := self.before_divergence(state["divergence"]["good_step"])) is not None:
            kept.add(format.step_of(good))
        planned = [format.step_of(path) for path in others if self._is_planned(path)]
        kept |= self._mirror.in_use | {*planned[len(planned) - min(len(planned), self._spec.num_averaged) :]}
        for old in others[: max(0, len(others) - (self._spec.keep_last - 1))]:
            if format.step_of(old) not in kept:
                _remove(old)

    def _is_planned(self, path: Path) -> bool:
        return self._spec.every is not None and format.step_of(path) % self._spec.every == 0


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, whole for its readers; what cannot be removed now is after the next start or save."""
    leaving = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(leaving, ignore_errors=True)
    with contextlib.suppress(OSError):
        checkpoint.rename(leaving)
        sync(checkpoint.parent)  # a power failure must not bring back a name whose files are gone
        shutil.rmtree(leaving, ignore_errors=True)


def disk_needed(num_parameters: int, num_kept: int, *, ema: bool = False) -> int:
    """Bytes of the checkpoints to keep, one more (a new one comes before an old one is removed), and the model."""
    return (num_kept + 1) * size_of_checkpoint(num_parameters, ema=ema) + 4 * num_parameters


def size_of_checkpoint(num_parameters: int, *, ema: bool = False) -> int:
    """Bytes of the tensors of a checkpoint at most: each parameter, two moments and an average of it in fp32."""
    return 4 * num_parameters * (1 + 2 + ema)


def _describe(path: Path) -> dict[str, Any]:
    sync(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}
