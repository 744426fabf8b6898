"""Folders with a manifest in an object store: complete once their manifest.json is there, which is uploaded last.

A manifest names the files of the folder with their sizes and SHA-256, as those of prepared corpora and checkpoints do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlm_dist import faults
from mlm_dist.files import sha256_of, write_bytes
from mlm_dist.object_store import ObjectStore
from mlm_dist.terminal.stages import stage
from mlm_dist.transfers import in_parallel

MANIFEST = "manifest.json"


class DamagedFolderError(Exception):
    """A folder in a store is not what its manifest says.

    Args:
        message: What is wrong.
        names: Its damaged files; empty if the manifest itself is damaged, or unknown.
    """

    def __init__(self, message: str, names: Collection[str] = ()) -> None:
        super().__init__(message)
        self.names = {*names}


def upload(
    store: ObjectStore,
    name: str,
    folder: Path,
    files: Collection[str],
    advance: Callable[[float], None] = lambda _: None,
    *,
    step: int = 0,
) -> None:
    """Upload files of a folder, and its manifest after all of them.

    Args:
        store: The store.
        name: The folder in the store.
        folder: The folder on this disk, which has a manifest.json.
        files: The files to upload, relative to the folder.
        advance: Called with the MB of each uploaded file.
        step: The step of the run, for planned faults.

    Raises:
        ConfigError: The store cannot be written to.
    """
    for file, _ in in_parallel(lambda file: store.upload(folder / file, f"{name}/{file}"), files):
        advance((folder / file).stat().st_size / 1e6)
        faults.kill_here("in_upload", step)
    store.upload(folder / MANIFEST, f"{name}/{MANIFEST}")


def download(
    store: ObjectStore, name: str, target: Path, is_wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, Any] | None:
    """Download a folder and compare every file with its manifest; files that are there already are not downloaded.

    It shows its progress, so only the main thread may call it.

    Args:
        store: The store.
        name: The folder in the store.
        target: The folder on this disk. The manifest is written last, and files that it does not name are removed.
        is_wanted: Which files are downloaded; all must be in the store.

    Returns:
        The manifest; None if the store has no such folder, or an upload of it is not complete.

    Raises:
        ConfigError: The store cannot be read.
        DamagedFolderError: It is not what its manifest says.
    """
    content = store.read(f"{name}/{MANIFEST}")
    if content is None:
        return None
    manifest, files = _parsed(content, f"{store.address}/{name}/{MANIFEST}")
    missing = files.keys() - store.list(name).keys()
    if missing:
        raise DamagedFolderError(f"{store.address}/{name}/{min(missing)} is missing", missing)
    files = {file: record for file, record in files.items() if is_wanted(file)}

    def is_whole(file: str) -> bool:
        path, (size, sha256) = target / file, files[file]
        return path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256

    def receive(file: str) -> bool:
        if (target / file).is_symlink() or not is_whole(file):
            store.download(f"{name}/{file}", target / file)
            return is_whole(file)
        return True

    with stage(f"downloading {name}", sum(size for size, _ in files.values()) / 1e6, "MB", leaves_after=2) as shown:
        damaged = []
        for file, is_intact in in_parallel(receive, files):
            shown.advance(files[file][0] / 1e6)
            if not is_intact:
                damaged.append(file)
    if damaged:
        raise DamagedFolderError(
            f"{store.address}/{name}/{min(damaged)} is damaged: it differs from the manifest", damaged
        )
    for path in [*target.rglob("*")]:
        if path.is_symlink() or (path.is_file() and path.relative_to(target).as_posix() not in files):
            path.unlink()
    write_bytes(target / MANIFEST, content)
    return manifest


def _parsed(content: bytes, shown: str) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """A manifest, and {path: (size, SHA-256)} of its files.

    Raises:
        DamagedFolderError: It is none, or names a file outside of its folder.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        described: Mapping[str, Any] = manifest["files"]
        files = {str(name): (int(one["size"]), str(one["sha256"])) for name, one in described.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedFolderError(f"{shown} is not a manifest") from None
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts or str(path) != name:
            raise DamagedFolderError(f"{shown} names {name}, which is not a file of its folder")
    return manifest, files
