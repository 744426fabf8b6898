"""Records of files: their sizes and hashes, written down to verify the files later."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
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
        OSError: A file is missing or cannot be read.
    """
    real = folder.resolve()
    have_sizes = all(
        not Path(name).is_absolute()
        and ".." not in Path(name).parts
        and (folder / name).resolve() == real / name
        and stat.S_ISREG((folder / name).stat().st_mode)
        and (folder / name).stat().st_size == file["size"]
        for name, file in files.items()
    )
    if not have_sizes:
        return False
    if known is None:
        return all(sha256_of(folder / name) == file["sha256"] for name, file in files.items())
    for one, file in zip(known.hash([*files]), files.values(), strict=True):
        if isinstance(one, OSError):
            raise one
        if one.sha256.hex() != file["sha256"]:
            return False
    return True
