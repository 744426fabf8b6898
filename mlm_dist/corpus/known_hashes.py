"""SHA-256 of files, remembered from one start to the next: a file that has not changed since is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlm_dist.files import sha256_of, write_whole

FOLDER = "hashes"  # of a cache
HASHED_TOGETHER = 64  # files per task of the thread pool; a task per file would cost more than the hashing
RECENT = 2_000_000_000  # nanoseconds within which some disks give two changes the same time


# There may be millions of these, and the garbage collector skips plain tuples. The state of a file is its size in
# bytes, the time of its last change in nanoseconds, and its inode: one of them differs if the file has changed.
FileState = tuple[int, int, int]
Hashed = tuple[FileState, str]  # what a file was just before it was read, now or before, and its SHA-256 in hexadecimal


def file_state(found: os.stat_result) -> FileState:
    """The state of a file."""
    return found.st_size, found.st_mtime_ns, found.st_ino


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

    def hash(
        self, names: Sequence[str], states: Mapping[str, FileState] = MappingProxyType({})
    ) -> list[Hashed | OSError]:
        """The hash of each file, or why it cannot be read. Several threads read the files that are not known.

        Args:
            names: The files, relative to the folder.
            states: States of files that were looked at already.
        """
        known, began = self._read(names), time.time_ns()
        found: list[Hashed | OSError | None] = [
            one if one is not None and one[0] == states.get(name) else None
            for name, one in zip(names, known, strict=True)
        ]
        missing = [i for i, one in enumerate(found) if one is None]

        def hash_some(first: int) -> list[Hashed | OSError]:
            return [self._hash(names[i], known[i]) for i in missing[first : first + HASHED_TOGETHER]]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            some = pool.map(hash_some, range(0, len(missing), HASHED_TOGETHER))
            for i, one in zip(missing, itertools.chain.from_iterable(some), strict=True):
                found[i] = one
        hashes = [one for one in found if one is not None]
        if hashes != known:
            self._write(
                {
                    name: one
                    for name, one, before in zip(names, hashes, known, strict=True)
                    if not isinstance(one, OSError) and (one is before or one[0][1] < began - RECENT)
                }
            )
        return hashes

    def of_readable(self, names: Iterable[str]) -> dict[str, str]:
        """{name: hash} of files that can be read.

        Raises:
            OSError: One cannot be read.
        """
        listed, found = [*names], {}
        for name, one in zip(listed, self.hash(listed), strict=True):
            if isinstance(one, OSError):
                raise one
            found[name] = one[1]
        return found

    def remember(self, hashes: Mapping[str, str]) -> None:
        """Remember hashes in hexadecimal of files that are complete and that nobody changes."""
        with contextlib.suppress(OSError):
            self._write({name: (self._state(name), one) for name, one in hashes.items()})

    def forget(self) -> None:
        """Remove the table."""
        with contextlib.suppress(OSError):
            self._table.unlink(missing_ok=True)

    def _state(self, name: str) -> FileState:
        return file_state(os.stat(os.path.join(self._root, name)))

    def _hash(self, name: str, known: Hashed | None) -> Hashed | OSError:
        try:
            state = self._state(name)
            if known is not None and known[0] == state:
                return known
            path = os.path.join(self._root, name)
            sha256 = sha256_of(path)
            self._check(Path(path))
            return state, sha256
        except OSError as error:
            return error

    def _read(self, names: Sequence[str]) -> list[Hashed | None]:
        """What is known of each file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self._table, schema=_schema(), memory_map=True)
            wanted = pa.array(map(os.fsencode, names), pa.large_binary())
            if not table["path"].equals(pa.chunked_array([wanted])):
                table = table.take(pc.index_in(wanted, value_set=table["path"]))
            states = zip(*(table[name].to_pylist() for name in ("size", "changed", "inode")), strict=True)
            hashes = table["sha256"].to_pylist()
        except (OSError, ValueError, pa.ArrowException):
            return [None] * len(names)
        return [None if sha256 is None else (state, sha256.hex()) for state, sha256 in zip(states, hashes, strict=True)]

    def _write(self, files: Mapping[str, Hashed]) -> None:
        if not files:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        states, hashes = zip(*files.values(), strict=True)
        paths, contents = [*map(os.fsencode, files)], [*map(bytes.fromhex, hashes)]
        columns: list[Sequence[Any]] = [paths, *zip(*states, strict=True), contents]
        schema = _schema()
        table = pa.table([pa.array(*one) for one in zip(columns, schema.types, strict=True)], schema=schema)
        with contextlib.suppress(OSError):
            self._table.parent.mkdir(exist_ok=True)
            write_whole(self._table, lambda path: pq.write_table(table, path), durable=False)


def _schema() -> Any:
    import pyarrow as pa

    numbers = [(name, pa.int64()) for name in ("size", "changed")]
    return pa.schema([("path", pa.large_binary()), *numbers, ("inode", pa.uint64()), ("sha256", pa.binary(32))])
