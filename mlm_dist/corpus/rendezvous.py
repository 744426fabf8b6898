"""A rendezvous of ranks through files: they divide work, wait for each other's files, and fail together.

Preparation has no process group, because long work would exceed the timeout of a collective barrier. Each rank writes a
small heartbeat file in a shared folder several times a second. Rank 0 reads the nonces in these files, so that files of
an earlier launch are never mistaken for those of this one. Clocks of different machines are never compared: a rank is
alive if its file changes while another rank watches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mlm_dist.errors import CorpusError, PeerError, UserError
from mlm_dist.files import write_json

T = TypeVar("T")

HEARTBEAT_SECONDS = 0.25
POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0  # a failure that was recorded before this rank looked may belong to an earlier launch for so long
SILENCE_SECONDS = 120.0  # a rank whose file does not change for so long is dead


class Rendezvous:
    """The ranks of one launch, which share a folder. A context manager; a single process writes no files.

    Args:
        folder: A folder on a disk that all ranks share; each launch uses a folder of its own in it.
        rank: This process.
        world_size: Number of processes.
        purpose: What the ranks do. Two rendezvous of one launch need different purposes, because some ranks may enter
            the second before others have left the first.
    """

    def __init__(self, folder: Path, rank: int, world_size: int, purpose: str = "") -> None:
        self.rank, self.world_size = rank, world_size
        self.folder = folder / _launch_name(world_size, purpose)
        self._nonce = uuid.uuid4().hex
        self._nonces: dict[int, str] = {}  # of all ranks, known after the first `lead`
        self._state: dict[str, Any] = {"nonce": self._nonce, "beat": 0, "failed": None}
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Rendezvous:
        if self.world_size > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
            self._heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.world_size == 1:
            return
        self._ended.set()
        self._heartbeat.join()
        if error is None:
            self._leave()
        elif not isinstance(error, PeerError):
            self._state["failed"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._write()

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The indices of this rank's items, chosen so that the sizes of all ranks' items are about equal.

        Args:
            sizes: Sizes of all items, the same on all ranks.
        """
        loads = [0] * self.world_size
        mine = []
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # the largest first, to the rank with the least
            rank = loads.index(min(loads))
            loads[rank] += max(sizes[i], 1)
            if rank == self.rank:
                mine.append(i)
        return sorted(mine)

    def lead(self, name: str, make: Callable[[], T]) -> T:
        """Rank 0 calls `make`, and every rank returns its result, a JSON value.

        Args:
            name: Name of the result, used once per rendezvous.
            make: Called on rank 0 only.

        Raises:
            PeerError: Another rank failed.
        """
        if self.world_size == 1:
            return make()
        path = self.folder / f"{name}.json"
        if self.rank == 0:
            made = make()
            if not self._nonces:
                self._nonces = self._wait_for_nonces()
            write_json(path, {"nonces": self._nonces, "value": made})
            return made
        answer: dict[str, Any] = {}

        def is_answered() -> bool:
            content = _read(path)
            if content is None or content["nonces"].get(str(self.rank)) != self._nonce:
                return False
            answer.update(content)
            return True

        self._wait(is_answered, f"rank 0 ({name})")
        self._nonces = {int(rank): nonce for rank, nonce in answer["nonces"].items()}
        value: T = answer["value"]
        return value

    def wait_for(self, paths: Sequence[Path]) -> None:
        """Wait until all files exist, whichever rank writes them.

        Raises:
            PeerError: Another rank failed.
        """
        missing = list(paths)

        def all_exist() -> bool:
            while missing and missing[-1].exists():
                missing.pop()
            return not missing

        self._wait(all_exist, "the other ranks' shards")

    def _wait_for_nonces(self) -> dict[int, str]:
        """The nonce of each rank, read from a file that changed while rank 0 watched it."""
        first = {rank: self._peer(rank) for rank in range(1, self.world_size)}
        nonces = {0: self._nonce}

        def all_seen() -> bool:
            for rank in range(1, self.world_size):
                now = self._peer(rank)
                if rank not in nonces and now is not None and now != first[rank]:
                    nonces[rank] = now["nonce"]
            return len(nonces) == self.world_size

        self._wait(all_seen, "the other ranks to start")
        return nonces

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        """Poll until `is_done`, and watch the other ranks for failure and silence."""
        started = time.monotonic()
        last = {rank: self._peer(rank) for rank in range(self.world_size) if rank != self.rank}
        changed = dict.fromkeys(last, started)
        while not is_done():
            now = time.monotonic()
            for rank, before in last.items():
                state = last[rank] = self._peer(rank)
                if state != before:
                    changed[rank] = now
                if state is not None and state["failed"] is not None:
                    # A failure is of this launch if its nonce is known, its file changed, or the grace period is over.
                    is_current = state["nonce"] == self._nonces.get(rank) or changed[rank] > started
                    if is_current or now - started > GRACE_SECONDS:
                        raise PeerError(f"rank {rank} failed: {state['failed']}")
                if now - changed[rank] > SILENCE_SECONDS:
                    raise CorpusError(
                        f"rank {rank} has written nothing to {self.folder} for {SILENCE_SECONDS:.0f} s while rank "
                        f"{self.rank} waited for {what}; see that rank's log, and that all nodes share corpus.cache_dir"
                    )
            time.sleep(POLL_SECONDS)

    def _peer(self, rank: int) -> dict[str, Any] | None:
        return _read(self.folder / f"rank-{rank}.json")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self._state["beat"] += 1
            self._write()

    def _leave(self) -> None:
        """Remove this rank's file, and the folder if it was the last: each rank has then read what it waited for."""
        files = [self.folder / f"rank-{rank}.json" for rank in range(self.world_size)]
        with contextlib.suppress(OSError):
            files[self.rank].unlink()
            if not any(file.exists() for file in files):
                shutil.rmtree(self.folder)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk, the work itself fails with a path the user knows
            write_json(self.folder / f"rank-{self.rank}.json", self._state, durable=False)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value


def _launch_name(world_size: int, purpose: str) -> str:
    """A name that is the same on all ranks of a launch, and different for launches that share a disk."""
    address = os.environ.get("MASTER_ADDR", "")
    if address in ("", "localhost", "127.0.0.1", "::1"):
        address = socket.gethostname()
    job = [os.environ.get(name, "") for name in ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")]
    return hashlib.sha256("\0".join([address, *job, str(world_size), purpose]).encode()).hexdigest()[:16]
