"""Downloaded objects in the cache: which version of each there is, so that only changed ones are downloaded again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm_dist.corpus.sources.source_files import state
from mlm_dist.files import write_bytes
from mlm_dist.object_store import ObjectStore
from mlm_dist.stored_object import StoredObject
from mlm_dist.terminal.stages import stage
from mlm_dist.transfers import in_parallel


class Downloads:
    """The folder `files` with the objects, and `objects.jsonl` with a line for each: a killed update continues there.

    Args:
        store: Where the objects are.
        folder: The folder in the cache; one process at a time may update it.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store, self._record = store, folder / "objects.jsonl"
        self.files = folder / "files"

    def update(self, objects: Mapping[str, StoredObject], *, is_root: bool = False) -> None:
        """Download the objects that are new or have changed, and remove all files that are none of them.

        Args:
            objects: {path: object} of all that must be there.
            is_root: Whether the store's address is that of the object itself.

        Raises:
            ConfigError: The store cannot be read.
        """
        self.files.mkdir(parents=True, exist_ok=True)
        known = {name: line for name, line in self._known().items() if name in objects}
        for path in [*self.files.rglob("*")]:
            name = path.relative_to(self.files).as_posix()
            if path.is_symlink() or (not path.is_dir() and name not in objects):
                path.unlink(missing_ok=True)
            elif path.is_dir() and name in objects:  # it was a folder before
                shutil.rmtree(path)
        wanted = [name for name, one in objects.items() if not self._is_current(name, one, known.get(name))]
        if not wanted:
            return
        lines = [json.dumps(line) + "\n" for line in known.values()]
        write_bytes(self._record, "".join(lines).encode(), durable=False)

        def download(name: str) -> None:
            self._store.download("" if is_root else name, self.files / name)

        total = sum(objects[name].size for name in wanted) / 1e6
        with (
            stage("downloading", total, "MB", leaves_after=2) as shown,
            open(self._record, "a", encoding="utf-8") as record,
        ):
            for name, _ in in_parallel(download, wanted):
                line = {"name": name, "version": objects[name].version, "state": state(self.files / name)}
                record.write(json.dumps(line) + "\n")
                record.flush()
                shown.advance(objects[name].size / 1e6)

    def _known(self) -> dict[str, dict[str, Any]]:
        """The newest line of each object; one that a crash cut short is not there."""
        known = {}
        with contextlib.suppress(OSError):
            for text in self._record.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    line = json.loads(text)
                    known[str(line["name"])] = line
        return known

    def _is_current(self, name: str, found: StoredObject, line: Mapping[str, Any] | None) -> bool:
        """Whether the file is that version of the object, whole and unchanged; an object without a version never is."""
        if line is None or not found.version or line.get("version") != found.version:
            return False
        with contextlib.suppress(OSError):
            now = state(self.files / name)
            return [*now] == line.get("state") and now[0] == found.size and not os.path.islink(self.files / name)
        return False
