"""Blocks of rows on this disk, downloaded from an object store when they are needed, up to a number of bytes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist.errors import CorpusError
from mlm_dist.files import lock, mapped
from mlm_dist.system_errors import named

POLL_SECONDS = 0.05
USED_SECONDS = 1.0  # after which the time of a block's last use is written again
PART, LOCK = ".part", ".lock"


class StoredBlock(NamedTuple):
    """A block in an object store.

    Args:
        sha256: SHA-256 of its content, in hexadecimal.
        size: Its size in bytes.
        read: Reads it from the store.
        name: What it is, for messages.
    """

    sha256: str
    size: int
    read: Callable[[], bytes]
    name: str


class BlockCache:
    """A folder with a file for each block, named by the hash of its content. Threads and processes share it.

    The files of the folder, those that are being downloaded included, never take more than the given bytes: the block
    that was not used for the longest time is removed before another one is downloaded.

    Args:
        folder: The folder, which is made.
        most_bytes: The most bytes of its files; no block may be larger.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self.most_bytes = folder, most_bytes
        self._verified: dict[str, float] = {}  # {block: when its use was written} of those that this process read
        folder.mkdir(parents=True, exist_ok=True)

    def content(self, block: StoredBlock) -> Any:
        """The content of a block as a buffer, which is mapped or in memory.

        Raises:
            ConfigError: The store cannot be read.
            CorpusError: The block is damaged.
        """
        while True:
            found = self._open(block)
            if found is None:
                found = self._download(block, wait=True)
            if found is not None:
                return found

    def has(self, block: StoredBlock) -> bool:
        """Whether a block is on this disk."""
        return (self._folder / block.sha256).exists()

    def fetch(self, block: StoredBlock) -> None:
        """Download a block, unless it is there or is being downloaded. Raises as `content` does."""
        if not self.has(block):
            self._download(block, wait=False)

    def _open(self, block: StoredBlock) -> Any:
        """The content of a block that is there, else None; a damaged file is removed."""
        path = self._folder / block.sha256
        try:
            content, now = mapped(path), time.monotonic()
            used = self._verified.get(block.sha256)
            if used is None and hashlib.sha256(memoryview(content)).hexdigest() != block.sha256:
                path.unlink(missing_ok=True)
                return None
            if used is None or now - used > USED_SECONDS:
                os.utime(path)
                self._verified[block.sha256] = now
        except FileNotFoundError:
            return None
        return content

    def _download(self, block: StoredBlock, *, wait: bool) -> bytes | None:
        """Download a block and return it; None if another thread or process has done so, or does it."""
        path, claim = self._folder / block.sha256, self._folder / f"{block.sha256}{LOCK}"
        try:
            held = lock(claim, wait=wait)
        except BlockingIOError:
            return None
        try:
            if path.exists():
                return None
            part = self._reserve(block)
            try:
                content = block.read()
                if hashlib.sha256(content).hexdigest() != block.sha256:
                    raise damaged(block.name)
                with named(part):
                    with open(part, "r+b") as file:  # an empty file would give the room to other downloads
                        file.write(content)
                    with self._all_files():
                        part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            claim.unlink(missing_ok=True)  # not after an error, when others may wait for it
            return content
        finally:
            held.release()

    def _reserve(self, block: StoredBlock) -> Path:
        """Make the file that a block is downloaded to, with the size of the block."""
        part = self._folder / f"{block.sha256}{PART}"
        while True:
            with self._all_files():
                part.unlink(missing_ok=True)  # left by a process that was killed
                if self._make_room(block.size):
                    with named(part), open(part, "wb") as file:
                        file.truncate(block.size)
                    return part
            time.sleep(POLL_SECONDS)  # other downloads need the room

    @contextmanager
    def _all_files(self) -> Iterator[None]:
        """Hold the lock of the folder: nobody adds or renames a file while another one counts them."""
        held = lock(self._folder / LOCK, wait=True)
        try:
            yield
        finally:
            held.release()

    def _make_room(self, size: int) -> bool:
        """Remove the blocks that were not used for the longest time, until there is room; whether there is."""
        states = {}
        for path in self._folder.iterdir():
            if LOCK not in (path.suffix, path.name):
                try:
                    states[path] = path.stat()
                except FileNotFoundError:  # just removed by another process
                    return False
        total = sum(state.st_size for state in states.values())
        for path in sorted(states, key=lambda path: states[path].st_mtime_ns):
            if total + size <= self.most_bytes:
                break
            if path.suffix != PART or _is_free(path.with_suffix(LOCK)):
                path.unlink(missing_ok=True)
                self._verified.pop(path.name, None)
                total -= states[path].st_size
        return total + size <= self.most_bytes


def damaged(name: str) -> CorpusError:
    """The error about a damaged object of a corpus in a store."""
    return CorpusError(
        f"corpus.store: {name} is damaged: it differs from the manifest; delete it and the manifest.json of its corpus "
        "from the store, and prepare the corpus again"
    )


def _is_free(claim: Path) -> bool:
    """Whether nobody holds a lock: the process that downloaded the block was killed."""
    try:
        lock(claim, wait=False).release()
    except BlockingIOError:
        return False
    return True
