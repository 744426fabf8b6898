"""The files of a folder that are documents, and what is dropped on the way."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlm_dist.corpus.known_hashes import FileState, file_state
from mlm_dist.corpus.sources import hub_cache
from mlm_dist.system_errors import passes

SUBMODULE = "submodule that is not checked out"


@dataclass(frozen=True)
class Patterns:
    """Which files are documents, as in a .gitignore; the case of letters makes no difference.

    Args:
        lines: The patterns.
    """

    lines: Sequence[str]

    @cached_property
    def _spec(self) -> Any:
        from pathspec import GitIgnoreSpec

        return GitIgnoreSpec.from_lines([line.lower() for line in self.lines])

    def match(self, name: str) -> bool:
        """Whether a file, by its path relative to the root, is a document."""
        # The library takes a line break for the end of a name.
        name = name.replace("\n", " ").lower()
        return name.endswith(self._suffixes) or bool(self._spec.match_file(name))

    @cached_property
    def _suffixes(self) -> tuple[str, ...]:
        """The endings of names that match in any case, such as .md of `**/*.md`: most files need no more than that."""
        if any(line.startswith("!") for line in self.lines):
            return ()
        found = (re.fullmatch(r"\*\*/\*(\.\w+)", line.lower()) for line in self.lines)
        return tuple(one[1] for one in found if one is not None)

    def unmatched(self, names: Iterable[str]) -> dict[str, int]:
        """{suffix: number of files} that no pattern matches, the most first."""
        return by_suffix(name for name in names if not self.match(name))


def by_suffix(names: Iterable[str]) -> dict[str, int]:
    """{suffix: number of files}, the most first; a file without a suffix counts under its name."""
    counts = Counter(os.path.splitext(name)[1].lower() or os.path.basename(name) for name in names)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def in_words(counts: Mapping[str, int], most: int) -> str:
    """Numbers of files of each suffix for people: the first `most` kinds, and how many others there are."""
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most:,} other kinds" if len(counts) > most else "")


@dataclass(frozen=True)
class MatchingFiles:
    """The files of a folder.

    Args:
        states: {path relative to the root: state} of those that a pattern matches.
        dropped: {reason: paths of what was dropped}.
        unmatched: {suffix: number of files} that no pattern matches.
    """

    states: dict[str, FileState]
    dropped: dict[str, list[str]]
    unmatched: dict[str, int]


def matching_files(root: Path, patterns: Sequence[str], cache_dir: Path) -> MatchingFiles:
    """All files below `root` that a pattern matches. Links and special files are dropped and never followed.

    The exception are links of the Hugging Face Hub's cache, whose files are all links into a folder beside them.

    Folders that hold no documents of the user are dropped as a whole: hidden ones, environments and packages, and
    what this program writes, so that `--corpus.source .` means the same before and after a run.

    Args:
        root: The folder.
        patterns: As in a .gitignore.
        cache_dir: The cache.
    """
    spec, cache = Patterns(patterns), cache_dir.resolve()
    states: dict[str, FileState] = {}
    others: list[str] = []
    dropped: dict[str, list[str]] = {}

    def drop(reason: str, name: str) -> None:
        dropped.setdefault(reason, []).append(name)

    folders = [""]
    while folders:
        below = folders.pop()
        folder = root / below
        try:
            with os.scandir(folder) as found:
                entries = [*found]
        except OSError as error:
            if passes(error):
                raise
            drop(f"unreadable folder ({error.strerror})", below or os.curdir)
            continue
        subfolders, files = _divided(entries)
        reason = _why_dropped(folder, files, cache) if below else None
        if reason is not None:
            drop(reason, below)
            continue
        prefix = below and below + os.sep  # os.path.join takes longer than all else for a million files
        for entry in subfolders:
            name = prefix + entry.name
            if entry.is_symlink():
                drop("symbolic link", name)
            elif entry.name != ".git":
                folders.append(name)
        for entry in files:
            name = prefix + entry.name
            if not spec.match(name):
                others.append(name)
                continue
            state = _state(entry)
            if isinstance(state, str):
                drop(state, name)
            else:
                states[name] = state
    for path in _missing_submodules(root):
        drop(SUBMODULE, path)
    return MatchingFiles(states, dropped, by_suffix(others))


def _divided(entries: Iterable[os.DirEntry[str]]) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """The folders, with links to folders, and all others."""
    folders: list[os.DirEntry[str]] = []
    others: list[os.DirEntry[str]] = []
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads nowhere, or that may not be followed
            is_folder = False
        (folders if is_folder else others).append(entry)
    return folders, others


def _state(entry: os.DirEntry[str]) -> FileState | str:
    """The state of a file, or why it is dropped."""
    try:
        if entry.is_file(follow_symlinks=False) or (entry.is_symlink() and hub_cache.is_own_blob(Path(entry))):
            return file_state(entry.stat())
    except OSError as error:  # it was deleted after the folder was listed
        if passes(error):
            raise
        return f"unreadable ({error.strerror})"
    return "symbolic link" if entry.is_symlink() else "not a regular file"


def _missing_submodules(root: Path) -> list[str]:
    """The paths of a work tree's submodules that hold no files."""
    try:
        text = (root / ".gitmodules").read_text("utf-8", errors="replace")
    except OSError:
        return []
    paths = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    return sorted(path for path in set(paths) if ".." not in path.split("/") and not _has_files(root / path))


def _has_files(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def _why_dropped(folder: Path, files: Iterable[os.DirEntry[str]], cache: Path) -> str | None:
    """Why a folder below the root is dropped as a whole; None if it is read."""
    return "corpus.cache_dir" if folder == cache else why_no_documents(folder, {entry.name for entry in files})


def why_no_documents(folder: Path, files: Collection[str]) -> str | None:
    """Why a folder below the root is dropped as a whole; None if it is read.

    Args:
        folder: Its path.
        files: The names of its files.
    """
    if "metrics.jsonl" in files and "config.yaml" in files:
        return "run directory"
    if "pyvenv.cfg" in files:
        return "virtual environment"
    if folder.name == "node_modules":
        return "installed packages"
    return "hidden folder" if folder.name.startswith(".") else None
