"""Folders on this disk as a source."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.sources import dataset_folder, git
from mlm_dist.corpus.sources.protocol import Fetched, Request


class Folder:
    """A folder of documents or of records; a work tree of git keeps its commit."""

    is_local: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("dataset_split",)

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return os.path.isdir(os.path.expanduser(name))

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        path = Path(os.path.expanduser(request.name))
        root, commit = path.resolve(), git.commit_of(path)
        found = dataset_folder.saved(root, request)
        if found is None:
            return Fetched(request.name, root, request.patterns, commit=commit)
        return dataclasses.replace(found, commit=commit)
