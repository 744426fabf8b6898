"""Prepared corpora in an object store: `<corpus.store>/<digest>/`, shared by machines that have no disk in common."""

from __future__ import annotations

import json
import logging
from typing import Any

from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.store import FORMAT, PreparedCorpus
from mlm_dist.errors import UserError
from mlm_dist.object_store import ObjectStore
from mlm_dist.stored_folders import MANIFEST, DamagedFolderError, download, upload
from mlm_dist.terminal.stages import stage

KEY = "corpus.store"

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
            manifest = download(self._store, digest, store.partial)
            if manifest is None:
                return False
            is_it = (manifest.get("format"), manifest.get("digest")) == (FORMAT, digest)
            if not is_it or manifest.get("config") != json.loads(json.dumps(dependencies)):
                raise DamagedFolderError(f"{self._store.address}/{digest}/{MANIFEST} describes another corpus")
            if not store.receive(manifest):
                raise DamagedFolderError(f"{self._store.address}/{digest} is not a corpus")
        except DamagedFolderError as error:
            logger.warning("%s: %s; the corpus is prepared again and replaces it", KEY, error)
            self._damaged = error.names | {MANIFEST}
            return False
        logger.info("downloaded %s/%s to %s", self._store.address, digest, store.folder)
        return True

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
