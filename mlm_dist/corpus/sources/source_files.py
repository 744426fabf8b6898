"""The files of a source: listed and hashed once, by one rank, for all ranks."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.readers import reader_of
from mlm_dist.corpus.sources.matching_files import matching_files
from mlm_dist.corpus.sources.protocol import Fetched
from mlm_dist.errors import CorpusError
from mlm_dist.files import sha256_of

HASHED_TOGETHER = 64  # files per task of the thread pool; a task per file would cost more than the hashing


@dataclass(frozen=True)
class SourceFiles:
    """Files that hold documents.

    Args:
        kind: A name of the registry `SOURCES`.
        location: What the user named, without credentials.
        commit: The commit the files belong to, if there is one.
        root: The folder that holds the files.
        files: {path relative to root: SHA-256 of the content}, sorted by path.
        states: {path: `state` of the file just before it was hashed}.
        units: {path: what its reader's `count_units` returned}, of files whose reader counts units.
        dropped: {reason: paths of files and folders that are not read}.
        records: Whether the files were named themselves, so that a .txt file holds many documents and not one.
        key: The config key that names the source, for messages.
    """

    kind: str
    location: str
    commit: str | None
    root: Path
    files: dict[str, str]
    states: dict[str, list[int]]
    units: dict[str, int]
    dropped: dict[str, list[str]]
    records: bool
    key: str = "corpus.source"

    def digest(self) -> str:
        """A hash of names and contents; it does not depend on the location of the folder, on times or on owners."""
        lines = [f"{path}\0{content}" for path, content in self.files.items()]
        return hashlib.sha256("\n".join([str(self.records), *lines]).encode("utf-8", "surrogateescape")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return vars(self) | {"root": str(self.root)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SourceFiles:
        """The inverse of `to_json`."""
        return cls(**value | {"root": Path(value["root"])})


def state(path: Path | str) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds, which differ if a file has changed.

    The inode is not part of it: some shared disks give a file another inode on each machine.

    Raises:
        OSError: The file does not exist.
    """
    result = os.stat(path)
    return [result.st_size, result.st_mtime_ns]


def list_files(kind: str, fetched: Fetched, cache_dir: Path, key: str) -> SourceFiles:
    """List and hash the files of a fetched source; files that cannot be read are dropped with a reason.

    Args:
        kind: A name of the registry `SOURCES`.
        fetched: The folder and which of its files to take.
        cache_dir: The cache, which is not a part of any source.
        key: The config key that names the source, for messages.

    Raises:
        CorpusError: No file matches.
    """
    names = fetched.files
    dropped: dict[str, list[str]] = {}
    if names is None:
        names, dropped = matching_files(fetched.root, fetched.patterns, cache_dir)
        if not names:
            count = sum(map(len, dropped.values()))
            others = f" ({count} links or special files were dropped)" if count else ""
            raise CorpusError(
                f"{key}: no file in {fetched.location} matches corpus.patterns {fetched.patterns}{others}; change the "
                "patterns or name another source"
            )
    states: dict[str, list[int]] = {}
    files: dict[str, str] = {}
    for name, content in _hashed(fetched.root, sorted(names)):
        if isinstance(content, OSError):
            dropped.setdefault(f"unreadable ({content.strerror})", []).append(name)
        else:
            states[name], files[name] = content
    return SourceFiles(
        kind=kind,
        location=fetched.location,
        commit=fetched.commit,
        root=fetched.root,
        files=files,
        states=states,
        units=_units(fetched.root, files, records=fetched.files is not None),
        dropped={reason: sorted(paths) for reason, paths in dropped.items() if paths},
        records=fetched.files is not None,
        key=key,
    )


def _hashed(root: Path, names: list[str]) -> list[tuple[str, tuple[list[int], str] | OSError]]:
    """The state and SHA-256 of each file, or why it cannot be read."""

    def contents(some: list[str]) -> list[tuple[list[int], str] | OSError]:
        results: list[tuple[list[int], str] | OSError] = []
        for name in some:
            path = os.path.join(root, name)
            try:
                results.append((state(path), sha256_of(path)))
            except OSError as error:
                results.append(error)
        return results

    batches = [names[i : i + HASHED_TOGETHER] for i in range(0, len(names), HASHED_TOGETHER)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = [content for batch in pool.map(contents, batches) for content in batch]
    return list(zip(names, hashes, strict=True))


def _units(root: Path, names: dict[str, str], *, records: bool) -> dict[str, int]:
    counts = {name: reader_of(name, records=records).count_units(root / name) for name in names}
    return {name: count for name, count in counts.items() if count is not None}
