"""Prepared corpora in an object store: `<corpus.store>/<digest>/`, shared by machines that have no disk in common."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlm_dist.corpus import file_records
from mlm_dist.corpus.block_cache import BlockCache
from mlm_dist.corpus.described_sources import are_described, is_made_with
from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.stored_corpus import StoredCorpus
from mlm_dist.errors import CorpusError, UserError
from mlm_dist.object_store import ObjectStore
from mlm_dist.spec import SourceSpec
from mlm_dist.stored_folders import MANIFEST, DamagedFolderError, download, upload
from mlm_dist.terminal.stages import stage

KEY = "corpus.store"
STORED = "stored"  # folder of a cache: corpora whose documents and training rows stay in a store

logger = logging.getLogger(__name__)


class RemoteCorpora:
    """The corpora in a store; used by rank 0 alone.

    Args:
        address: The address of their folder.

    Raises:
        ConfigError: The address is none, or a package is missing.
    """

    def __init__(self, address: str) -> None:
        self._store = ObjectStore(address, KEY)
        self._damaged: set[str] = set()

    def fetch(self, store: ShardStore, dependencies: dict[str, Any]) -> bool:
        """Download a corpus into the cache; whether the store has it.

        A damaged one is named and then prepared, and replaced by the next `upload`.

        Args:
            store: The place of the corpus in the cache.
            dependencies: What its rows depend on, see `digests.dependencies`.

        Raises:
            ConfigError: The store cannot be read.
        """
        digest = store.folder.name
        store.begin()
        try:
            is_there = self._receive(store, dependencies)
        except DamagedFolderError as error:
            logger.warning("%s: %s; the corpus is prepared again and replaces it", KEY, error)
            self._damaged = error.names | {MANIFEST}
            return False
        if is_there:
            logger.info("downloaded %s/%s to %s", self._store.address, digest, store.folder)
        return is_there

    def find(self, dependencies: dict[str, Any], sources: Sequence[SourceSpec]) -> str | None:
        """The digest of the corpus of some sources that was prepared last; None if the store has none.

        Args:
            dependencies: What its rows depend on, see `digests.dependencies`.
            sources: The sources, which are not fetched: the manifest must have their addresses and settings.

        Raises:
            ConfigError: The store cannot be read.
        """
        found = []
        for digest in filter(re.compile(r"[0-9a-f]{16}").fullmatch, self._store.folders()):
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, DamagedFolderError):
                manifest = json.loads(self._store.read(f"{digest}/{MANIFEST}") or b"{}")
                self._check(manifest, digest, dependencies)
                if are_described(manifest["sources"], sources):
                    found.append(digest)
        if len(found) > 1:
            found.sort(key=lambda digest: self._store.modified(f"{digest}/{MANIFEST}"))
        return found[-1] if found else None

    def fetch_index(self, cache_dir: Path, digest: str, dependencies: dict[str, Any]) -> bool:
        """Download all of a corpus but its documents and training rows; whether the store has it.

        Args:
            cache_dir: The cache; the files are in its folder `stored/<digest>`.
            digest: The corpus.
            dependencies: What its rows depend on, see `digests.dependencies`.

        Raises:
            ConfigError: The store cannot be read.
            CorpusError: The corpus is damaged.
        """
        content = self._store.read(f"{digest}/{MANIFEST}")
        if content is None:
            return False
        (cache_dir / STORED).mkdir(exist_ok=True)
        store = ShardStore(cache_dir / STORED, digest)
        if _is_current(store.folder, content):
            return True
        store.begin()
        try:
            return self._receive(store, dependencies, _is_index)
        except DamagedFolderError as error:
            raise CorpusError(f"{KEY}: {error}; prepare it with corpus.rows_from disk, which replaces it") from None

    def opened(self, corpus: PreparedCorpus, folder: Path, most_bytes: int) -> PreparedCorpus:
        """A corpus whose index was downloaded; its documents and training rows are read from the store.

        Args:
            corpus: The index.
            folder: Downloaded blocks of rows are in it.
            most_bytes: The most bytes of them.
        """
        stored = StoredCorpus(self._store, corpus.digest, corpus.manifest["files"], BlockCache(folder, most_bytes))
        return PreparedCorpus(corpus.folder, stored)

    def _receive(
        self, store: ShardStore, dependencies: dict[str, Any], is_wanted: Callable[[str], bool] = lambda _: True
    ) -> bool:
        """Download the wanted files of a corpus into a folder that has begun; whether the store has the corpus.

        Raises:
            ConfigError: The store cannot be read.
            DamagedFolderError: The corpus is damaged, or is another one.
        """
        digest = store.folder.name
        manifest = download(self._store, digest, store.partial, is_wanted)
        if manifest is None:
            return False
        self._check(manifest, digest, dependencies)
        if not store.receive(manifest):
            raise DamagedFolderError(f"{self._store.address}/{digest} is not a corpus")
        return True

    def _check(self, manifest: dict[str, Any], digest: str, dependencies: dict[str, Any]) -> None:
        """Refuse a manifest that is not that of a corpus.

        Raises:
            DamagedFolderError: It is another one.
        """
        if manifest.get("digest") != digest or not is_made_with(manifest, dependencies):
            raise DamagedFolderError(f"{self._store.address}/{digest}/{MANIFEST} describes another corpus")

    def upload(self, corpus: PreparedCorpus) -> None:
        """Upload what the store lacks of a corpus; a failure is logged and does not end the job."""
        name = corpus.digest
        try:
            found = self._store.list(name)
            if MANIFEST in found and not self._damaged:
                return
            files = corpus.manifest["files"]
            missing = [
                file
                for file, one in files.items()
                if file in self._damaged or file not in found or found[file].size != one["size"]
            ]
            total = sum(files[file]["size"] for file in missing) / 1e6
            with stage("uploading corpus", total, "MB", leaves_after=2) as shown:
                upload(self._store, name, corpus.folder, missing, shown.advance)
        except UserError as error:
            logger.warning("%s; the corpus is not in the store, and the next start uploads the rest", error)
        else:
            logger.info("uploaded the corpus to %s/%s", self._store.address, name)


def _is_index(name: str) -> bool:
    """Whether a file of a corpus is needed on the disk if its documents and training rows stay in the store."""
    is_of_rows = name.startswith("train/") and (name.endswith(".arrow") or ".words." in name)
    return not is_of_rows and not name.startswith(("documents/", "shards/")) and name != "dropped.parquet"


def _is_current(folder: Path, manifest: bytes) -> bool:
    """Whether an index in the cache is that of a manifest in the store, and its files are intact."""
    try:
        files = json.loads(manifest)["files"]
        index = {name: record for name, record in files.items() if _is_index(name)}
        known = KnownHashes(folder, folder.parent, folder.name)
        return (folder / MANIFEST).read_bytes() == manifest and file_records.are_intact(folder, index, known)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
