"""Checkpoints of a run in an object store, so that another machine resumes it.

    <checkpoint.store>/checkpoints/step-00000100/   a checkpoint, see `format`
    <checkpoint.store>/records/step-00000100/       the records of the run up to there: metrics, report, trackers

A checkpoint is complete once its manifest.json is there; its records were uploaded before it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.same_run import REMEDY
from mlm_dist.errors import CheckpointError, UserError
from mlm_dist.files import sha256_of
from mlm_dist.object_store import ObjectStore
from mlm_dist.stored_folders import MANIFEST, DamagedFolderError, download, upload

KEY = "checkpoint.store"
RECORDS = ("config.yaml", "resolved.yaml", "metrics.jsonl", "report.json", "trackers.json", "tensorboard")

logger = logging.getLogger(__name__)


class RemoteCheckpoints:
    """The checkpoints of one run in a store; used by rank 0 alone.

    Args:
        address: The address of their folder, which belongs to the run.

    Raises:
        ConfigError: The address is none, or a package is missing.
    """

    def __init__(self, address: str) -> None:
        self._store = ObjectStore(address, KEY)
        self.address = self._store.address

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order.

        Raises:
            ConfigError: The store cannot be read.
        """
        complete = (name for name in self._store.list("checkpoints") if name.endswith(f"/{MANIFEST}"))
        return sorted(step for name in complete if (step := _step_of(name)) is not None)

    def refuse(self) -> None:
        """Refuse a store that holds checkpoints, for a run that starts fresh.

        Raises:
            CheckpointError: It does.
        """
        if self.steps():
            raise CheckpointError(
                f"{KEY}: {self.address} holds checkpoints of an earlier run; name another folder, or remove them"
            )

    def fetch(self, run: Path, require_same: Callable[[Path], None]) -> None:
        """Download the checkpoints and records into a run directory, if they are newer than those there.

        All of them are downloaded: the best one and those to average are needed as well as the newest.

        Args:
            run: The run directory.
            require_same: Raises a CheckpointError for a checkpoint of another run, by its state.json.

        Raises:
            CheckpointError: The checkpoints belong to another run, or none is good and the directory has none either.
            ConfigError: The store cannot be read.
        """
        steps, checkpoints = self.steps(), run / "checkpoints"
        local = [format.step_of(path) for path in format.published(checkpoints)]
        temporary = checkpoints / ".step-downloads"
        try:
            if steps:
                self._require_same(steps[-1], temporary, require_same)
            if not steps or steps[-1] <= max(local, default=-1):
                return
            good: list[Path] = []
            problems: list[str] = []
            for step in sorted({*steps} - {*local}, reverse=True):
                try:
                    good.append(self._download(step, temporary))
                except (DamagedFolderError, CheckpointError) as error:
                    logger.warning("%s: skipped a checkpoint that is not good: %s", KEY, error)
                    problems.append(str(error))
            if not good and not local:
                raise CheckpointError(
                    f"{KEY}: no checkpoint in {self.address} is good ({problems[0]}); restore one, or name another "
                    "folder"
                )
            self._publish(sorted(good, key=format.step_of), temporary, run, newest_before=max(local, default=-1))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _require_same(self, step: int, temporary: Path, require_same: Callable[[Path], None]) -> None:
        """Compare the state of a checkpoint, which is small, with the run.

        Raises:
            CheckpointError: It belongs to another run.
        """
        name = format.name_of(step)
        content = self._store.read(f"checkpoints/{name}/state.json")
        if content is None:
            return  # the download names it
        folder = temporary / "states" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_bytes(content)
        try:
            require_same(folder)
        except CheckpointError as error:
            said = str(error).replace(str(folder), name).removesuffix(f"; {REMEDY}")
            raise CheckpointError(
                f"{KEY}: {self.address} holds a run that this one does not continue ({said}); set it back, or name "
                "another folder"
            ) from None

    def _download(self, step: int, temporary: Path) -> Path:
        """Download a checkpoint and its records; the folder of the checkpoint.

        Raises:
            DamagedFolderError: It is not what its manifest says.
            CheckpointError: It holds what no checkpoint holds.
            ConfigError: The store cannot be read.
        """
        name = format.name_of(step)
        if download(self._store, f"records/{name}", temporary / "records" / name) is None:
            raise DamagedFolderError(f"{self.address}/records/{name} is missing")
        if download(self._store, f"checkpoints/{name}", temporary / "checkpoints" / name) is None:
            raise DamagedFolderError(f"{self.address}/checkpoints/{name} was removed meanwhile")
        format.verify(temporary / "checkpoints" / name)
        return temporary / "checkpoints" / name

    def _publish(self, good: list[Path], temporary: Path, run: Path, newest_before: int) -> None:
        """Move checkpoints to the run directory, the newest last, and the records that came with it before it."""
        for path in good:
            if path == good[-1] and format.step_of(path) > newest_before:
                for name in RECORDS:
                    _replace(temporary / "records" / path.name / name, run / name)
            path.rename(run / "checkpoints" / path.name)
            logger.info("downloaded %s/checkpoints/%s", self.address, path.name)

    def upload(self, checkpoint: Path) -> None:
        """Upload a checkpoint and the records of its run, unless the store has it.

        Raises:
            ConfigError: The store cannot be written to.
            OSError: The checkpoint was removed meanwhile.
        """
        name, run = checkpoint.name, checkpoint.parent.parent
        content = (checkpoint / MANIFEST).read_bytes()
        found = self._store.read(f"checkpoints/{name}/{MANIFEST}")
        if found == content:
            return
        if found is not None:  # of the same step, with other bits
            self._store.remove([f"checkpoints/{name}/{MANIFEST}"])
        records = checkpoint.parent / f".{name}.records"
        try:
            upload(self._store, f"records/{name}", records, _copy_records(run, records))
        finally:
            shutil.rmtree(records, ignore_errors=True)
        upload(self._store, f"checkpoints/{name}", checkpoint, format.FILES, step=format.step_of(checkpoint))

    def write_config(self, run: Path) -> None:
        """Upload config.yaml, so that a store that cannot be written to is noticed before the first step.

        Raises:
            ConfigError: The store cannot be written to.
        """
        self._store.write("config.yaml", (run / "config.yaml").read_bytes())

    def remove(self, is_old: Callable[[int], bool]) -> None:
        """Remove the checkpoints of some steps; a failure is logged, and the next call tries again.

        Args:
            is_old: Whether to remove that of a step.
        """
        try:
            for folder in ("checkpoints", "records"):
                steps = {name: _step_of(name) for name in self._store.list(folder)}
                names = [f"{folder}/{name}" for name, step in steps.items() if step is not None and is_old(step)]
                # Without its manifest a checkpoint is not there any more.
                self._store.remove(sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")))
        except UserError as error:
            logger.warning("%s; old checkpoints stay there until the next one", error)


def _step_of(name: str) -> int | None:
    """The step in the name of an object's folder; None for another object."""
    folder = Path(name).parts[0]
    return format.step_of(Path(folder)) if format.is_name(folder) else None


def _copy_records(run: Path, target: Path) -> list[str]:
    """Copy the records of a run, which goes on writing them, beside a manifest of them; their names."""
    shutil.rmtree(target, ignore_errors=True)
    names = [path.relative_to(run).as_posix() for name in RECORDS for path in _files(run / name)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, target / name)
    files = {name: {"size": (target / name).stat().st_size, "sha256": sha256_of(target / name)} for name in names}
    (target / MANIFEST).write_text(json.dumps({"files": files}, indent=1), "utf-8")
    return names


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (one for one in sorted(path.rglob("*")) if one.is_file())
    elif path.is_file():
        yield path


def _replace(source: Path, target: Path) -> None:
    """Move a record to its place."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.exists():
        source.rename(target)
