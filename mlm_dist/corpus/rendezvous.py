"""A rendezvous of ranks through files: they divide work, wait for each other's files, and fail together.

Preparation has no process group, because long work would exceed the timeout of a collective barrier. Each rank writes a
small heartbeat file in a shared folder several times a second. Before any work, all ranks meet: rank 0 reads the nonces
in these files and writes them to a roster. A file with another nonce is one of an earlier launch and says nothing about
this one. Clocks of different machines are never compared: a rank is alive if its file changes while another rank
watches it, and time in which the watching rank itself was stopped does not count.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mlm_dist.errors import CorpusError, Interrupted, PeerError, UserError
from mlm_dist.files import write_json
from mlm_dist.interruption import NOTHING_SAVED
from mlm_dist.ranks import launch_name
from mlm_dist.stopwatch import Stopwatch
from mlm_dist.terminal.stages import stage

T = TypeVar("T")

HEARTBEAT_SECONDS = 0.25
POLL_SECONDS = 0.05
SILENCE_SECONDS = 120.0  # a rank whose file does not change for so long is dead
VISIBLE_SECONDS = 120.0  # a file that another rank has written is seen after so long, also on a slow shared disk
ROSTER = "roster"
STOPPED = "stopped by a signal"


def unseen(paths: Sequence[Path]) -> list[Path]:
    """Wait until this process sees files that others have written already, and return those it does not see in time."""
    waited = Stopwatch()
    while (missing := [path for path in paths if not path.exists()]) and waited.seconds() <= VISIBLE_SECONDS:
        time.sleep(POLL_SECONDS)
    return missing


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
        self.folder = folder / launch_name(world_size, purpose)
        self._nonce = uuid.uuid4().hex
        self._nonces: dict[int, str] = {}  # of all ranks, once they have met
        self._state: dict[str, Any] = {"nonce": self._nonce, "host": socket.gethostname(), "beat": 0, "failed": None}
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Rendezvous:
        if self.world_size > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
            self._heartbeat.start()
            try:
                self._meet()
            except BaseException as error:
                self._end(error)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.world_size > 1:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._ended.set()
        self._heartbeat.join()
        if error is None:
            self._leave()
        elif isinstance(error, KeyboardInterrupt | Interrupted):
            self._state["failed"] = STOPPED
            self._write()
        elif not isinstance(error, PeerError):
            self._state["failed"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._write()

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
            write_json(path, {"nonces": self._nonces, "value": made})
            return made
        answer: T = self._read_answer(path, f"rank 0 ({name})")["value"]
        return answer

    def _read_answer(self, path: Path, what: str) -> dict[str, Any]:
        """What rank 0 has written for the ranks of this launch, once it has."""
        answer: dict[str, Any] = {}

        def is_answered() -> bool:
            content = _read(path)
            if content is None or content["nonces"].get(str(self.rank)) != self._nonce:
                return False
            answer.update(content)
            return True

        self._wait(is_answered, what)
        return answer

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

    def see(self, paths: Sequence[Path]) -> None:
        """Wait until this rank sees files that another rank has written already.

        Raises:
            CorpusError: It does not see them: the disk is not shared.
        """
        if missing := unseen(paths):
            raise CorpusError(
                f"rank {self.rank} on {socket.gethostname()} does not see {missing[0]}, which another rank has "
                "written; all nodes must share corpus.cache_dir"
            )

    def _meet(self) -> None:
        """Learn the nonces of all ranks of this launch; rank 0 reads each from a file that changes while it watches."""
        path = self.folder / f"{ROSTER}.json"
        if self.rank != 0:
            roster = self._read_answer(path, "rank 0 to start")["nonces"]
            self._nonces = {int(rank): nonce for rank, nonce in roster.items()}
            return
        first = {rank: self._peer(rank) for rank in range(1, self.world_size)}
        nonces = {0: self._nonce}

        def all_seen() -> bool:
            for rank in range(1, self.world_size):
                now = self._peer(rank)
                if rank not in nonces and now is not None and now != first[rank]:
                    nonces[rank] = now["nonce"]
            return len(nonces) == self.world_size

        self._wait(all_seen, "the other ranks to start")
        self._nonces = nonces
        write_json(path, {"nonces": nonces})

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        """Poll until `is_done`, and watch the other ranks for failure and silence."""
        with stage(f"waiting for {what}", leaves_after=None):
            self._watch(is_done, what)

    def _watch(self, is_done: Callable[[], bool], what: str) -> None:
        last = {rank: self._peer(rank) for rank in range(self.world_size) if rank != self.rank}
        waited = Stopwatch()
        changed = dict.fromkeys(last, 0.0)
        while not is_done():
            now = waited.seconds()
            for rank, before in last.items():
                state = last[rank] = self._peer(rank)
                if state != before:
                    changed[rank] = now
                # While the ranks meet, a failure may be one of an earlier launch that ends later.
                if state is not None and state["failed"] is not None and state["nonce"] == self._nonces.get(rank):
                    if state["failed"] == STOPPED:
                        raise Interrupted(NOTHING_SAVED)
                    raise PeerError(f"rank {rank} on {state['host']} failed: {state['failed']}")
                if now - changed[rank] > SILENCE_SECONDS:
                    raise CorpusError(self._silence(rank, state, what))
            time.sleep(POLL_SECONDS)

    def _silence(self, rank: int, state: dict[str, Any] | None, what: str) -> str:
        is_known = state is not None and state["nonce"] == self._nonces.get(rank)
        where = f" on {state['host']}" if state is not None and is_known else ""
        return (
            f"rank {rank}{where} has written nothing to {self.folder} for {SILENCE_SECONDS:.0f} s while rank "
            f"{self.rank} on {socket.gethostname()} waited for {what}; see that rank's log, and that all nodes share "
            "corpus.cache_dir"
        )

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
