"""Prepared corpora whose large files stay in an object store, and are read from there in pieces."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.block_cache import BlockCache, StoredBlock, damaged
from mlm_dist.files import sha256_of
from mlm_dist.object_store import ObjectStore


@dataclass(frozen=True)
class StoredCorpus:
    """A prepared corpus in a store.

    Args:
        store: The store.
        name: The folder of the corpus in it.
        files: {path: size and SHA-256} of its files, as in its manifest.
        cache: The blocks on this disk.
    """

    store: ObjectStore
    name: str
    files: Mapping[str, Mapping[str, Any]]
    cache: BlockCache

    def block(self, file: str, start: int, stop: int, sha256: np.ndarray) -> StoredBlock:
        """The bytes of a file in [start, stop), whose SHA-256 is known."""
        name = f"{self.name}/{file}"
        read = functools.partial(self.store.read_range, name, start, stop)
        return StoredBlock(sha256.tobytes().hex(), stop - start, read, f"{self.store.address}/{name}")

    @contextlib.contextmanager
    def file(self, file: str) -> Iterator[Path]:
        """A whole file, which is on this disk inside only.

        Raises:
            ConfigError: The store cannot be read.
            CorpusError: The file is damaged.
        """
        name = f"{self.name}/{file}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file).name
            self.store.download(name, path)
            if sha256_of(path) != self.files[file]["sha256"]:
                raise damaged(f"{self.store.address}/{name}")
            yield path
