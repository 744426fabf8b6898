"""The files of a source: listed and hashed once, by one rank, for all ranks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_dist.config import SourceConfig
from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import reader_of
from mlm_dist.corpus.readers.compression import content_name
from mlm_dist.corpus.readers.text import TextReader
from mlm_dist.corpus.sources import source_keys
from mlm_dist.corpus.sources.matching_files import matching_files
from mlm_dist.corpus.sources.protocol import Fetched
from mlm_dist.errors import CorpusError
from mlm_dist.files import sha256_of

HASHED_TOGETHER = 64  # files per task of the thread pool; a task per file would cost more than the hashing


@dataclass(frozen=True)
class SourceIdentity:
    """What a source is called.

    Args:
        name: Its name among several sources; empty for the only one.
        kind: A name of the registry `SOURCES`.
        key: The config key that names the source, for messages.
    """

    name: str
    kind: str
    key: str = "corpus.source"


@dataclass(frozen=True)
class SourceFiles:
    """Files that hold documents, and how they are read.

    Args:
        name: The source's name among several; it begins the ids of its documents. Empty for the only source.
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
        clean: Markup of all documents; None if each file's suffix decides.
        text: Fields of a record that hold its text.
        encoding: Character encoding of all files; None to detect each file's own.
        separator: Text between the documents of a text file; None if it is one document.
        split: Field of a record that names its side of the split; None if no field does.
        group: Field of a record whose value it shares with all records on its side; None for none.
        has_splits: Whether names of files and folders say on which side of the split their records are.
        options: {key of `SourceConfig`: value} of what else was set for this kind of source.
    """

    name: str
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
    clean: str | None = None
    text: tuple[str, ...] = ("text",)
    encoding: str | None = None
    separator: str | None = None
    split: str | None = "split"
    group: str | None = None
    has_splits: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Everything besides the files that their documents depend on, as JSON values."""
        needed = sorted({package for name in self.files for package in self._packages(name)})
        return {
            "name": self.name,
            "records": self.records,
            "clean": self.clean,
            "text": list(self.text),
            "encoding": self.encoding,
            "separator": self.separator,
            "split": self.split,
            "group": self.group,
            "has_splits": self.has_splits,
            "options": self.options,
            "versions": {package: importlib.metadata.version(package) for package in needed},
        }

    def digest(self) -> str:
        """A hash of names, contents and settings; it does not depend on the folder's location, on times or owners."""
        lines = [json.dumps(self.settings(), sort_keys=True)]
        lines += [f"{path}\0{content}" for path, content in self.files.items()]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return vars(self) | {"root": str(self.root)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SourceFiles:
        """The inverse of `to_json`."""
        return cls(**value | {"root": Path(value["root"]), "text": tuple(value["text"])})

    def _packages(self, name: str) -> tuple[str, ...]:
        """The packages that reading and cleaning a file needs."""
        return packages(name, records=self.records, clean=self.clean)


def state(path: Path | str) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds, which differ if a file has changed.

    The inode is not part of it: some shared disks give a file another inode on each machine.

    Raises:
        OSError: The file does not exist.
    """
    result = os.stat(path)
    return [result.st_size, result.st_mtime_ns]


def packages(name: str, *, records: bool, clean: str | None) -> tuple[str, ...]:
    """The packages, by their names on PyPI, that a file's documents depend on.

    Args:
        name: The file.
        records: Whether the file was named itself.
        clean: Markup of all documents; None if the suffix decides.
    """
    reader = reader_of(name, records=records)
    is_text = isinstance(reader, TextReader)
    markups = (
        (clean,) if clean is not None else (cleaners.markup_of(content_name(name)),) if is_text else reader.markups
    )
    return reader.requires + tuple(
        package for markup in markups if markup != "none" for package in cleaners.CLEANERS[markup].requires
    )


def list_files(identity: SourceIdentity, fetched: Fetched, config: SourceConfig, cache_dir: Path) -> SourceFiles:
    """List and hash the files of a fetched source; files that cannot be read are dropped with a reason.

    Args:
        identity: What the source is called.
        fetched: The folder and which of its files to take.
        config: How its files are read.
        cache_dir: The cache, which is not a part of any source.

    Raises:
        CorpusError: No file matches.
    """
    names = fetched.files
    dropped: dict[str, list[str]] = {reason: list(paths) for reason, paths in fetched.dropped.items()}
    if names is None:
        names, dropped = matching_files(fetched.root, fetched.patterns, cache_dir)
        if not names:
            count = sum(map(len, dropped.values()))
            others = f" ({count} links or special files were dropped)" if count else ""
            raise CorpusError(
                f"{identity.key}: no file in {fetched.location} matches corpus.patterns {fetched.patterns}{others}; "
                "change the patterns or name another source"
            )
    _refuse_missing_packages(identity, names, records=fetched.files is not None, clean=config.clean)
    states: dict[str, list[int]] = {}
    files: dict[str, str] = {}
    for name, content in _hashed(fetched.root, sorted(names)):
        if isinstance(content, OSError):
            dropped.setdefault(f"unreadable ({content.strerror})", []).append(name)
        else:
            states[name], files[name] = content
    return SourceFiles(
        name=identity.name,
        kind=identity.kind,
        location=fetched.location,
        commit=fetched.commit,
        root=fetched.root,
        files=files,
        states=states,
        units=_units(fetched.root, files, records=fetched.files is not None),
        dropped={reason: sorted(paths) for reason, paths in dropped.items() if paths},
        records=fetched.files is not None,
        key=identity.key,
        clean=config.clean,
        text=tuple(config.text),
        encoding=config.encoding,
        separator=config.separator,
        split=config.split,
        group=config.group,
        has_splits=fetched.has_splits and config.split is not None,
        options=source_keys.options(config),
    )


def _refuse_missing_packages(
    identity: SourceIdentity, names: Sequence[str], *, records: bool, clean: str | None
) -> None:
    """Refuse files that need a package which is not installed.

    Raises:
        CorpusError: Names the package, the files and the remedy.
    """
    by_suffix: dict[str, str] = {os.path.splitext(name)[1].lower(): name for name in names}
    for suffix, name in sorted(by_suffix.items()):
        for package in packages(name, records=records, clean=clean):
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise CorpusError(
                    f"{identity.key}: {suffix} files such as {name} need the package {package}; run pip install "
                    f"'mlm_dist[formats]', or change corpus.patterns so that no {suffix} file matches"
                ) from None


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
