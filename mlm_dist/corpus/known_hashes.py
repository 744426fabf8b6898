"""SHA-256 of files, remembered from one start to the next: a file that has not changed since is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist.files import sha256_of, write_whole

FOLDER = "hashes"  # of a cache
HASHED_TOGETHER = 64  # files per task of the thread pool; a task per file would cost more than the hashing
RECENT = 2_000_000_000  # nanoseconds within which some disks give two changes the same time


class Hashed(NamedTuple):
    """A file that was read, now or before.

    Args:
        size: Its size in bytes.
        changed: Time of its last change in nanoseconds.
        inode: Its number on the disk.
        sha256: SHA-256 of its content.
    """

    size: int
    changed: int
    inode: int
    sha256: bytes


class KnownHashes:
    """The hashes of files of a folder, in a table of the cache.

    A file is known by its path, size, time of last change and inode. Without the table, as on a disk that cannot be
    written, all files are read.

    Args:
        root: The folder.
        cache_dir: The cache.
        name: The name of the table.
        check: Called with every file that is read. It raises an exception if the file is not one to remember.
    """

    def __init__(
        self, root: Path, cache_dir: Path, name: str, check: Callable[[Path], None] = lambda path: None
    ) -> None:
        self._root, self._table, self._check = str(root), cache_dir / FOLDER / f"{name}.parquet", check

    @classmethod
    def of_source(
        cls,
        root: Path,
        cache_dir: Path,
        location: str,
        patterns: Sequence[str],
        check: Callable[[Path], None] = lambda path: None,
    ) -> KnownHashes:
        """The hashes of the files of a source.

        Args:
            root: The folder of its files.
            cache_dir: The cache.
            location: What the user named.
            patterns: Which files are documents.
            check: As for the class.
        """
        # The first part is another one where tables hold other files: those of older versions have Git LFS pointers.
        parts = ["checked", str(root.absolute()), location, *patterns]
        name = "\0".join(parts).encode("utf-8", "surrogateescape")
        return cls(root, cache_dir, hashlib.sha256(name).hexdigest()[:16], check)

    def hash(self, names: Sequence[str]) -> list[Hashed | OSError]:
        """The hash of each file, or why it cannot be read. Several threads read the files that are not known.

        Args:
            names: The files, relative to the folder.
        """
        known, began = self._read(names), time.time_ns()

        def hash_some(first: int) -> list[Hashed | OSError]:
            return [self._hash(names[i], known[i]) for i in range(first, min(first + HASHED_TOGETHER, len(names)))]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = [one for some in pool.map(hash_some, range(0, len(names), HASHED_TOGETHER)) for one in some]
        if found != known:
            self._write(
                {
                    name: one
                    for name, one, before in zip(names, found, known, strict=True)
                    if isinstance(one, Hashed) and (one == before or one.changed < began - RECENT)
                }
            )
        return found

    def remember(self, hashes: Mapping[str, str]) -> None:
        """Remember hashes in hexadecimal of files that are complete and that nobody changes."""
        with contextlib.suppress(OSError):
            self._write({name: self._state(name)._replace(sha256=bytes.fromhex(one)) for name, one in hashes.items()})

    def forget(self) -> None:
        """Remove the table."""
        with contextlib.suppress(OSError):
            self._table.unlink(missing_ok=True)

    def _state(self, name: str) -> Hashed:
        found = os.stat(os.path.join(self._root, name))
        return Hashed(found.st_size, found.st_mtime_ns, found.st_ino, b"")

    def _hash(self, name: str, known: Hashed | None) -> Hashed | OSError:
        try:
            state = self._state(name)
            if known is not None and known[:-1] == state[:-1]:
                return known
            path = os.path.join(self._root, name)
            state = state._replace(sha256=bytes.fromhex(sha256_of(path)))
            self._check(Path(path))
            return state
        except OSError as error:
            return error

    def _read(self, names: Sequence[str]) -> list[Hashed | None]:
        """What is known of each file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self._table, schema=_schema(), memory_map=True)
            rows = pc.index_in(
                pa.array(map(os.fsencode, names), pa.large_binary()), value_set=table["path"]
            ).to_pylist()
            columns = [table[name].to_pylist() for name in Hashed._fields]
        except (OSError, ValueError, pa.ArrowException):
            return [None] * len(names)
        return [None if row is None else Hashed(*(column[row] for column in columns)) for row in rows]

    def _write(self, files: Mapping[str, Hashed]) -> None:
        if not files:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: list[Sequence[Any]] = [[os.fsencode(name) for name in files], *zip(*files.values(), strict=True)]
        schema = _schema()
        table = pa.table([pa.array(*one) for one in zip(columns, schema.types, strict=True)], schema=schema)
        with contextlib.suppress(OSError):
            self._table.parent.mkdir(exist_ok=True)
            write_whole(self._table, lambda path: pq.write_table(table, path), durable=False)


def _schema() -> Any:
    import pyarrow as pa

    numbers = [(name, pa.int64()) for name in ("size", "changed")]
    return pa.schema([("path", pa.large_binary()), *numbers, ("inode", pa.uint64()), ("sha256", pa.binary(32))])
