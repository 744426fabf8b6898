"""The prepared corpora in a cache: what they hold, when they were last used, and their removal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.files import lock, sync

_held: dict[str, int] = {}  # {manifest: descriptor that holds its lock} of the corpora that this process uses


@dataclass(frozen=True)
class CachedCorpus:
    """A corpus in a cache, prepared or left behind by an interrupted preparation.

    Args:
        folder: Its folder.
        source: Where its documents come from; empty for an interrupted preparation.
        rows: Its rows, training and validation.
        size: Its size on the disk in bytes.
        last_used: Seconds since the epoch when a job last used it.
    """

    folder: Path
    source: str
    rows: int
    size: int
    last_used: float

    @property
    def digest(self) -> str:
        """Its name."""
        return self.folder.name.removesuffix(".partial")

    @property
    def is_prepared(self) -> bool:
        """Whether its preparation was finished."""
        return self.folder.suffix != ".partial"


def use(folder: Path) -> None:
    """Note that this process uses a prepared corpus, until it ends: others do not remove it as long.

    On a disk without locks, or a cache that cannot be written to, nothing is noted.
    """
    with contextlib.suppress(OSError):
        os.utime(folder)
    manifest = str(folder / "manifest.json")
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        descriptor = os.open(manifest, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return
        before, _held[manifest] = _held.get(manifest), descriptor
        if before is not None:  # of the same corpus, or of one that was prepared again
            os.close(before)


def find(cache_dir: Path) -> list[CachedCorpus]:
    """The corpora in a cache, by their last use, newest first; links are none of them."""
    found = []
    for folder in cache_dir.iterdir() if cache_dir.is_dir() else ():
        if folder.is_symlink() or not folder.is_dir() or not re.fullmatch(r"[0-9a-f]{16}(\.partial)?", folder.name):
            continue
        with contextlib.suppress(OSError):
            found.append(_read(folder))
    return sorted(found, key=lambda corpus: (-corpus.last_used, corpus.folder.name))


def _read(folder: Path) -> CachedCorpus:
    source, rows = "", 0
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        source = ", ".join(str(one["location"]) for one in manifest["sources"])
        rows = sum(int(count) for count in manifest["rows"].values())
    sizes = [path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()]
    return CachedCorpus(folder, source, rows, sum(sizes), folder.stat().st_mtime)


def remove(corpus: CachedCorpus, *, dry_run: bool) -> bool:
    """Remove a corpus, unless a run uses or prepares it; whether it is, or with `dry_run` would be, removed.

    It is renamed first, so that no run finds a part of it.

    Raises:
        OSError: It cannot be removed.
    """
    with contextlib.ExitStack() as locks:
        try:
            preparation = corpus.folder.with_name(f"{corpus.digest}.lock")
            locks.callback(lock(preparation, wait=False).release)
            locks.enter_context(_unused(corpus.folder / "manifest.json"))
        except BlockingIOError:
            return False
        if not dry_run:
            leaving = corpus.folder.with_name(f".removed-{secrets.token_hex(6)}")
            corpus.folder.rename(leaving)
            sync(leaving.parent)  # a power failure must not bring back a name whose files are gone
            shutil.rmtree(leaving)
            KnownHashes(corpus.folder, corpus.folder.parent, corpus.digest).forget()
    return True


@contextlib.contextmanager
def _unused(manifest: Path) -> Iterator[None]:
    """Keep runs from using a corpus inside.

    Raises:
        BlockingIOError: A run uses it.
    """
    try:
        import fcntl

        descriptor = os.open(manifest, os.O_RDWR)
    except (FileNotFoundError, ImportError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # the disk has no locks
            pass
        yield
    finally:
        os.close(descriptor)


def age(seconds: float) -> str:
    """Seconds ago, in words."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count:,} {unit}{'s' if count > 1 else ''} ago"
    return "now"
