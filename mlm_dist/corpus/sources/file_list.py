"""The list of a source's files: made and hashed once, by one rank, for all ranks."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mlm_dist.config import SourceConfig
from mlm_dist.corpus.known_hashes import FileState, KnownHashes
from mlm_dist.corpus.readers import RecordsReader, is_readable, reader_of
from mlm_dist.corpus.sources import dataset_folder, source_keys
from mlm_dist.corpus.sources.matching_files import in_words, matching_files
from mlm_dist.corpus.sources.protocol import Fetched
from mlm_dist.corpus.sources.source_files import SourceFiles, SourceIdentity, one_of_each_suffix, packages
from mlm_dist.errors import CorpusError
from mlm_dist.system_errors import passes

logger = logging.getLogger(__name__)

LFS_POINTER, LFS_BYTES = "Git LFS pointer (git lfs pull fetches the file)", 1024
SHOWN = 8  # kinds of files that match no pattern


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
    names: Collection[str] | None = fetched.files
    looked_at: Mapping[str, FileState] = {}
    dropped: dict[str, list[str]] = {reason: list(paths) for reason, paths in fetched.dropped.items()}
    unmatched: Mapping[str, int] = fetched.unmatched
    if names is None:
        matching = matching_files(fetched.root, fetched.patterns, cache_dir)
        records = dataset_folder.records(fetched, matching.states, config, cache_dir)
        if records is not None and records.files is not None:
            fetched, names, dropped, unmatched = records, records.files, dict(records.dropped), records.unmatched
        else:
            names, looked_at, dropped = matching.states, matching.states, dropped | matching.dropped
            unmatched = unmatched or matching.unmatched
        if not names:
            raise CorpusError(_no_files(identity.key, fetched, dropped, unmatched))
    _log_unmatched(identity, unmatched)
    examples = one_of_each_suffix(names)
    _refuse_missing_packages(identity, examples, records=fetched.files is not None, clean=config.clean)
    states: dict[str, tuple[int, int]] = {}
    files: dict[str, str] = {}
    names = sorted(names)
    known = KnownHashes.of_source(fetched.root, cache_dir, fetched.location, fetched.patterns, _refuse_pointer)
    for name, content in zip(names, known.hash(names, looked_at), strict=True):
        if isinstance(content, OSError):
            if passes(content):
                raise content
            is_pointer = isinstance(content, _PointerError)
            dropped.setdefault(LFS_POINTER if is_pointer else f"unreadable ({content.strerror})", []).append(name)
        else:
            (size, changed, _), files[name] = content
            states[name] = size, changed
    return SourceFiles(
        name=identity.name,
        kind=identity.kind,
        location=fetched.location,
        commit=fetched.commit,
        root=fetched.root,
        files=files,
        states=states,
        unmatched=dict(unmatched),
        units=_units(fetched.root, files, examples.values(), records=fetched.files is not None),
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
    identity: SourceIdentity, examples: Mapping[str, str], *, records: bool, clean: str | None
) -> None:
    """Refuse files that need a package which is not installed.

    Raises:
        CorpusError: Names the package, the files and the remedy.
    """
    for suffix, name in sorted(examples.items()):
        for package in packages(name, records=records, clean=clean):
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise CorpusError(
                    f"{identity.key}: {suffix} files such as {name} need the package {package}; run pip install "
                    f"'mlm_dist[formats]', or change corpus.patterns so that no {suffix} file matches"
                ) from None


def _no_files(key: str, fetched: Fetched, dropped: Mapping[str, list[str]], unmatched: Mapping[str, int]) -> str:
    """The message for a source without documents: what it has instead, and the remedy."""
    parts = [f"{sum(map(len, dropped.values()))} links or special files were dropped"] if dropped else []
    if unmatched:
        parts.append("it has " + ", ".join(f"{count:,} {suffix}" for suffix, count in list(unmatched.items())[:5]))
    others = f" ({'; '.join(parts)})" if parts else ""
    return (
        f"{key}: no file in {fetched.location} matches corpus.patterns {fetched.patterns}{others}; change the patterns "
        "or name another source"
    )


def _log_unmatched(identity: SourceIdentity, unmatched: Mapping[str, int]) -> None:
    """Log how many files of each suffix match no pattern, and how to add those that can be read."""
    readable = {suffix: count for suffix, count in unmatched.items() if is_readable(f"a{suffix}")}
    if readable:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in readable.items())
        patterns = ",".join(f"**/*{suffix}" for suffix in readable)
        logger.warning("%s: %s not matched by corpus.patterns; add %s to read them", identity.key, counts, patterns)
    others = {suffix: count for suffix, count in unmatched.items() if suffix not in readable}
    if others:
        logger.info("%s: not matched by corpus.patterns: %s", identity.key, in_words(others, SHOWN))


class _PointerError(OSError):
    """A file is a Git LFS pointer; its hash is not remembered, so that only new files and pointers are looked at."""


def _refuse_pointer(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(LFS_BYTES + 1)
        if len(start) <= LFS_BYTES and start.startswith(b"version https://git-lfs.github.com/spec/"):
            raise _PointerError


def _units(root: Path, names: Iterable[str], examples: Iterable[str], *, records: bool) -> dict[str, int]:
    readers = [reader_of(name, records=records) for name in examples]
    if not any(isinstance(reader, RecordsReader) for reader in readers):
        return {}
    counts = {name: reader_of(name, records=records).count_units(root / name) for name in names}
    return {name: count for name, count in counts.items() if count is not None}
