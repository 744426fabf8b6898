"""The mirror of a run's checkpoints in an object store: a thread keeps it up to date while training continues."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.remote_checkpoints import RemoteCheckpoints
from mlm_dist.errors import reason
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)


class Mirror:
    """Uploads the checkpoints of a run directory, the newest first, and removes those that it has no more.

    A failure is logged and does not end the run; the next checkpoint uploads what is missing. If checkpoints come
    faster than they are uploaded, those that were removed meanwhile are not uploaded.

    Args:
        address: `checkpoint.store`; None mirrors nothing.
        folder: `checkpoints/` of the run directory.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        self._address, self._folder = address, folder
        self._remote: RemoteCheckpoints | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_outdated = False
        self.in_use: frozenset[int] = frozenset()
        """The step of the checkpoint that is being uploaded, which must not be removed."""

    def begin(self) -> None:
        """Write to the store, remove newer checkpoints, which the run does not continue, and upload those it lacks.

        Rank 0 calls it, before the first step.

        Raises:
            ConfigError: The store cannot be written to.
        """
        if self._address is None:
            return
        self._remote = RemoteCheckpoints(self._address)
        self._remote.write_config(self._folder.parent)
        newest = max(self._steps(), default=None)
        if newest is not None:
            self._remote.remove(lambda step: step > newest)
        self.update()

    def update(self) -> None:
        """Bring the store up to date, in a thread."""
        if self._remote is None:
            return
        with self._lock:
            self._is_outdated = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._remote,), daemon=False)
                self._thread.start()

    def wait(self) -> None:
        """Wait until the store is up to date, as far as it can be."""
        if (thread := self._thread) is not None:
            with stage("uploading checkpoints", leaves_after=2):
                thread.join()

    def _run(self, remote: RemoteCheckpoints) -> None:
        while True:
            with self._lock:
                if not self._is_outdated:
                    self._thread = None
                    return
                self._is_outdated = False
            self._update(remote)

    def _steps(self) -> set[int]:
        return {format.step_of(path) for path in format.published(self._folder)}

    def _update(self, remote: RemoteCheckpoints) -> None:
        is_complete = True
        for path in sorted(format.published(self._folder), key=format.step_of, reverse=True):
            step = format.step_of(path)
            self.in_use = frozenset({step})
            try:
                remote.upload(path)
            except Exception as error:  # of the network, the store or this disk: training continues
                if path.is_dir():
                    is_complete = False
                    logger.warning(
                        "the checkpoint of step %s is not uploaded: %s; the next one tries again",
                        *(f"{step:,}", reason(error)),
                    )
            finally:
                self.in_use = frozenset()
            if self._is_outdated:
                return  # a newer one comes first
        kept = self._steps()
        if kept and is_complete:  # otherwise the old ones may be all that the store has
            remote.remove(lambda step: step not in kept)
