"""Ranks that share a folder and nothing else: hand out work, wait for each other's files, and fail together.

Long work behind a collective barrier dies of the communication timeout, so preparation has no process group. Each rank
keeps one small file in a common folder and rewrites it several times a second; rank 0 reads the nonces out of those
files, so that what an earlier, dead launch left behind is never mistaken for this one. No clock is compared between
machines: a rank is alive when its file changes while somebody looks.
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
GRACE_SECONDS = 10.0  # how long a failure that was there before us may be an earlier launch's
SILENCE_SECONDS = 120.0  # a rank that writes nothing for so long is dead


class Meeting:
    """The ranks of one launch, met in one folder. A context manager; with one process it costs nothing.

    Args:
        folder: A folder that all ranks see; each launch gets its own below it.
        rank: This process, from 0.
        world_size: Number of processes.
        purpose: What they meet for; ranks that meet twice do so in two places, for some come while others still leave.
    """

    def __init__(self, folder: Path, rank: int, world_size: int, purpose: str = "") -> None:
        self.rank, self.world_size = rank, world_size
        self.folder = folder / _launch_name(world_size, purpose)
        self._nonce = uuid.uuid4().hex
        self._nonces: dict[int, str] = {}  # known to all once the first `lead` is through
        self._state: dict[str, Any] = {"nonce": self._nonce, "beat": 0, "failed": None}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Meeting:
        if self.world_size > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
            self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.world_size == 1:
            return
        self._ended.set()
        self._heart.join()
        if error is None:
            self._leave()
        elif not isinstance(error, PeerError):
            self._state["failed"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._write()

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The numbers of this rank's pieces of work, so that all ranks have about as much to do.

        Args:
            sizes: Of all pieces, the same on all ranks.
        """
        loads = [0] * self.world_size
        mine = []
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # the largest first, to whoever has least
            rank = loads.index(min(loads))
            loads[rank] += max(sizes[i], 1)
            if rank == self.rank:
                mine.append(i)
        return sorted(mine)

    def lead(self, name: str, make: Callable[[], T]) -> T:
        """Rank 0 makes a JSON-like value; every rank returns it. `name` is used once in a meeting.

        Raises:
            PeerError: rank 0 failed, or another rank did meanwhile.
        """
        if self.world_size == 1:
            return make()
        path = self.folder / f"{name}.json"
        if self.rank == 0:
            made = make()
            if not self._nonces:
                self._nonces = self._roll_call()
            write_json(path, {"nonces": self._nonces, "value": made})
            return made
        answer: dict[str, Any] = {}

        def answered() -> bool:
            found = _read(path)
            if found is None or found["nonces"].get(str(self.rank)) != self._nonce:
                return False
            answer.update(found)
            return True

        self._wait(answered, f"rank 0 ({name})")
        self._nonces = {int(rank): nonce for rank, nonce in answer["nonces"].items()}
        value: T = answer["value"]
        return value

    def wait_for(self, paths: Sequence[Path]) -> None:
        """Return when all files are there, written by whichever rank.

        Raises:
            PeerError: another rank failed, so that they will never be.
        """
        missing = list(paths)

        def all_there() -> bool:
            while missing and missing[-1].exists():
                missing.pop()
            return not missing

        self._wait(all_there, "the other ranks' shards")

    def _roll_call(self) -> dict[int, str]:
        """Each rank's nonce, taken from a file that was seen to change (rank 0's own is known)."""
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

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        """Poll until `done`, watching the other ranks for failure and silence."""
        started = time.monotonic()
        last = {rank: self._peer(rank) for rank in range(self.world_size) if rank != self.rank}
        changed = dict.fromkeys(last, started)
        while not done():
            now = time.monotonic()
            for rank, before in last.items():
                state = last[rank] = self._peer(rank)
                if state != before:
                    changed[rank] = now
                if state is not None and state["failed"] is not None:
                    # Ours, not an earlier launch's: a nonce we know, a change we saw, or it outlasted the grace.
                    ours = state["nonce"] == self._nonces.get(rank) or changed[rank] > started
                    if ours or now - started > GRACE_SECONDS:
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
        """Take our file away, and with the last one the folder: each rank has read by then what it waited for."""
        files = [self.folder / f"rank-{rank}.json" for rank in range(self.world_size)]
        with contextlib.suppress(OSError):
            files[self.rank].unlink()
            if not any(file.exists() for file in files):
                shutil.rmtree(self.folder)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the work itself will say so, with a path the user knows
            write_json(self.folder / f"rank-{self.rank}.json", self._state, durable=False)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value


def _launch_name(world_size: int, purpose: str) -> str:
    """The same on all ranks of a launch; different for launches that run at the same time on one disk."""
    address = os.environ.get("MASTER_ADDR", "")
    if address in ("", "localhost", "127.0.0.1", "::1"):
        address = socket.gethostname()
    job = [os.environ.get(name, "") for name in ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")]
    return hashlib.sha256("\0".join([address, *job, str(world_size), purpose]).encode()).hexdigest()[:16]
