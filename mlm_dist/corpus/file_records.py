"""Records of files: their sizes and hashes, written down to verify the files later."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.files import sha256_of


def describe(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """{path relative to the folder: size and SHA-256} of some files."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def are_intact(folder: Path, files: Mapping[str, Mapping[str, Any]], known: KnownHashes | None = None) -> bool:
    """Whether the files in the folder match their records.

    A path that leads out of the folder, by itself or by a link, never matches, nor does anything but a regular file.

    Args:
        folder: The folder.
        files: The records.
        known: Hashes of its files that are known; by default all files are read.

    Raises:
        OSError: A folder of them is missing, or a file cannot be read.
    """
    if not _are_regular(folder, files):
        return False
    if known is None:
        return all(
            (folder / name).stat().st_size == file["size"] and sha256_of(folder / name) == file["sha256"]
            for name, file in files.items()
        )
    for one, file in zip(known.hash([*files]), files.values(), strict=True):
        if isinstance(one, OSError):
            raise one
        state, sha256 = one
        if state[0] != file["size"] or sha256 != file["sha256"]:
            return False
    return True


def _are_regular(folder: Path, names: Iterable[str]) -> bool:
    """Whether all names are those of regular files in the folder that are reached without a link.

    Raises:
        OSError: A folder of them is missing or cannot be read.
    """
    paths = [PurePosixPath(name) for name in names]
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        return False
    real, names_in = folder.resolve(), defaultdict(set)
    for path in paths:
        names_in[path.parent].add(path.name)
    for parent, wanted in names_in.items():
        if (folder / parent).resolve() != real / parent:
            return False
        with os.scandir(folder / parent) as entries:
            regular = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        if not wanted <= regular:
            return False
    return True
