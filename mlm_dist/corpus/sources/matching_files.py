"""The files of a folder that are documents, and what is dropped on the way."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
        names: Those that a pattern matches, relative to the root.
        dropped: {reason: paths of what was dropped}.
        unmatched: {suffix: number of files} that no pattern matches.
    """

    names: list[str]
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
    spec = Patterns(patterns)
    names: list[str] = []
    others: list[str] = []
    dropped: dict[str, list[str]] = {}

    def drop(reason: str, name: str) -> None:
        dropped.setdefault(reason, []).append(name)

    def drop_unreadable(error: OSError) -> None:
        if passes(error):
            raise error
        drop(f"unreadable folder ({error.strerror})", os.path.relpath(error.filename, root))

    cache = cache_dir.resolve()
    for folder, subfolders, files in os.walk(root, onerror=drop_unreadable):
        below = os.path.relpath(folder, root)
        reason = None if below == os.curdir else why_no_documents(Path(folder), files)
        if below != os.curdir and Path(folder) == cache:
            reason = "corpus.cache_dir"
        if reason is not None:
            drop(reason, below)
            subfolders.clear()
            continue
        prefix = "" if below == os.curdir else below
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        for name in links:
            drop("symbolic link", os.path.join(prefix, name))
        subfolders[:] = [name for name in subfolders if name != ".git" and name not in links]
        for file in files:
            relative = os.path.join(prefix, file)
            if not spec.match(relative):
                others.append(relative)
                continue
            try:
                mode = os.lstat(os.path.join(folder, file)).st_mode
            except OSError as error:  # it was deleted after the folder was listed
                if passes(error):
                    raise
                drop(f"unreadable ({error.strerror})", relative)
                continue
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and hub_cache.is_own_blob(Path(folder, file))):
                names.append(relative)
            else:
                drop("symbolic link" if stat.S_ISLNK(mode) else "not a regular file", relative)
    for path in _missing_submodules(root):
        drop(SUBMODULE, path)
    return MatchingFiles(names, dropped, by_suffix(others))


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


def why_no_documents(folder: Path, files: list[str]) -> str | None:
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
