"""The files of a folder that are documents, and what is dropped on the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlm_dist.corpus.sources import hub_cache


def matching_files(root: Path, patterns: list[str], cache_dir: Path) -> tuple[list[str], dict[str, list[str]]]:
    """All files below `root` that a pattern matches. Links and special files are dropped and never followed.

    The exception are links of the Hugging Face Hub's cache, whose files are all links into a folder beside them.

    Folders that hold no documents of the user are dropped as a whole: hidden ones, environments and packages, and
    what this program writes, so that `--corpus.source .` means the same before and after a run.

    Args:
        root: The folder.
        patterns: As in a .gitignore.
        cache_dir: The cache.

    Returns:
        Paths relative to root, and {reason: paths of what was dropped}.
    """
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(patterns)
    names: list[str] = []
    dropped: dict[str, list[str]] = {}

    def drop(reason: str, name: str) -> None:
        dropped.setdefault(reason, []).append(name)

    def drop_unreadable(error: OSError) -> None:
        drop(f"unreadable folder ({error.strerror})", os.path.relpath(error.filename, root))

    cache = cache_dir.resolve()
    for folder, subfolders, files in os.walk(root, onerror=drop_unreadable):
        below = os.path.relpath(folder, root)
        reason = None if below == os.curdir else _why_no_documents(Path(folder), files, cache)
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
            if not spec.match_file(relative.replace("\n", " ")):  # the library takes a line break for the end of a name
                continue
            try:
                mode = os.lstat(os.path.join(folder, file)).st_mode
            except OSError as error:  # it was deleted after the folder was listed
                drop(f"unreadable ({error.strerror})", relative)
                continue
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and hub_cache.is_own_blob(Path(folder, file))):
                names.append(relative)
            else:
                drop("symbolic link" if stat.S_ISLNK(mode) else "not a regular file", relative)
    return names, dropped


def _why_no_documents(folder: Path, files: list[str], cache: Path) -> str | None:
    """Why a folder below the root is dropped as a whole; None if it is read."""
    if folder == cache:
        return "corpus.cache_dir"
    if "metrics.jsonl" in files and "config.yaml" in files:
        return "run directory"
    if "pyvenv.cfg" in files:
        return "virtual environment"
    if folder.name == "node_modules":
        return "installed packages"
    return "hidden folder" if folder.name.startswith(".") else None
