"""The run directory: its paths, its lock, the archive of an earlier run, and the checks before any work is done."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlm_dist.checkpoint import find, format
from mlm_dist.checkpoint.save import disk_needed
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.engine.device import host_memory
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.files import lock
from mlm_dist.spec import Spec
from mlm_dist.system_errors import named

_OF_A_RUN = (
    *("checkpoints", "metrics.jsonl", "tensorboard", "trackers.json", "model", "config.yaml", "resolved.yaml"),
    *("report.json", "report.html", "validation.json", "tasks.json", "logs", "search"),
)


@dataclass(frozen=True)
class RunDir:
    """The directory of a run, which may not exist.

    Args:
        path: The directory.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metrics, a JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def config(self) -> Path:
        """The config as it was given, with defaults."""
        return self.path / "config.yaml"

    @property
    def resolved(self) -> Path:
        """The specification: every value as it was decided."""
        return self.path / "resolved.yaml"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def logs(self) -> Path:
        """The stacks of all ranks, if the run made no progress."""
        return self.path / "logs"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def start_of_report(self) -> Path:
        """What the report needs from before the first step."""
        return self.path / "report.json"

    @property
    def validation(self) -> Path:
        """The result of the validate job."""
        return self.path / "validation.json"

    @property
    def tasks(self) -> Path:
        """The results of the validate job's tasks."""
        return self.path / "tasks.json"

    @property
    def search(self) -> Path:
        """The indexes of the search command."""
        return self.path / "search"

    @classmethod
    @contextlib.contextmanager
    def claim(cls, spec: Spec) -> Iterator[RunDir]:
        """Make the directory, check it, and keep other runs out of it inside; called on every rank.

        A directory that is new and stays empty is removed again.

        Rank 0 does the work; the ranks meet through files in the cache, so no process group is needed.

        Raises:
            ConfigError: The directory cannot be written to, another run uses it, or this machine cannot hold the model.
            CheckpointError: The disk has too little space for the checkpoints and the model, or there is no checkpoint
                to resume from where one is named.
            PeerError: Rank 0 failed.
        """
        run_dir, launch = cls(spec.output_dir), spec.launch
        _check_memory(spec)
        cache_dir = Path(spec.corpus.documents.cache_dir).expanduser().absolute()
        with contextlib.ExitStack() as claimed:
            purpose = f"run directory {spec.output_dir}"
            with Rendezvous(cache_dir / "rendezvous", launch.rank, launch.world_size, purpose) as group:
                group.lead("claim", lambda: run_dir._claim(claimed, spec))
            with named(run_dir.path):
                yield run_dir

    def _claim(self, claimed: contextlib.ExitStack, spec: Spec) -> None:
        if not self.path.exists():
            claimed.callback(self._remove_if_empty)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"output_dir: cannot write to {self.path} ({error.strerror}); choose another folder"
            ) from None
        try:
            claimed.callback(lock(self.path / ".lock", wait=False).release)
        except BlockingIOError:
            raise ConfigError(
                f"output_dir: another run is writing to {self.path}; wait for it or choose another folder"
            ) from None
        find.check(spec.checkpoint, self.checkpoints)  # before any work is done
        self._check_disk(spec)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            if {path.name for path in self.path.iterdir()} <= {".lock"}:
                shutil.rmtree(self.path)

    def _check_disk(self, spec: Spec) -> None:
        num_kept = spec.checkpoint.num_kept
        needed = disk_needed(spec.shape.parameters, num_kept, ema=spec.optim.ema_decay is not None)
        replaced = ("checkpoints/*/*", "model/*")
        old = sum(path.stat().st_size for pattern in replaced for path in self.path.glob(pattern))
        free = shutil.disk_usage(self.path).free
        if free + old < needed:
            raise CheckpointError(
                f"output_dir: {num_kept + 1} checkpoints and the model need {needed / 2**20:,.0f} MiB, but {self.path} "
                f"has {free / 2**20:,.0f} MiB free; free some space or choose another folder"
            )

    def archive(self, resume_from: Path | None) -> Path | None:
        """Move what does not belong to this run to `previous-N/`; the path of that, or None if nothing was moved.

        That is everything of an earlier run if a new one begins (or one that resumes from a checkpoint elsewhere), and
        newer checkpoints than `resume_from` if this run resumes from an older one.
        """
        if resume_from is not None and resume_from.resolve().parent == self.checkpoints.resolve():
            step = format.step_of(resume_from)
            paths = [path for path in format.published(self.checkpoints) if format.step_of(path) > step]
        else:
            paths = [path for name in _OF_A_RUN if (path := self.path / name).exists()]
        if not paths:
            return None
        number = 1
        while (self.path / f"previous-{number}").exists():
            number += 1
        target = self.path / f"previous-{number}"
        target.mkdir()
        for path in paths:
            path.rename(target / path.name)
        return target

    def clean(self) -> None:
        """Remove what interrupted saves and exports left."""
        for path in (*self.checkpoints.glob(".step-*"), *self.path.glob(".model-*")):
            shutil.rmtree(path, ignore_errors=True)


def _check_memory(spec: Spec) -> None:
    """Refuse a model whose weights alone do not fit this machine, before anything is allocated.

    Each process begins with all weights in fp32. On the CPU, gradients and moments are there as well.

    Raises:
        ConfigError: The memory of this machine is too small.
    """
    each, launch = 4 * spec.shape.parameters, spec.launch
    if launch.device.kind == "cpu":
        each = max(each, spec.memory.weights + spec.memory.gradients + spec.memory.moments)
    needed, memory = each * launch.local_world_size, host_memory()
    if needed > memory:
        raise ConfigError(
            f"model.name_or_path: {spec.shape.parameters:,} parameters need {needed / 2**30:,.1f} GiB in "
            f"{launch.local_world_size} processes, but this machine has {memory / 2**30:,.1f} GiB of memory; choose a "
            "smaller model or smaller model.overrides"
        )
