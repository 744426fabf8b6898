"""Folders on this disk as a source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.sources import git
from mlm_dist.corpus.sources.protocol import Fetched, Request


class Folder:
    """A folder; a work tree of git keeps its commit."""

    is_local: ClassVar[bool] = True

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return os.path.isdir(os.path.expanduser(name))

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        path = Path(os.path.expanduser(request.name))
        return Fetched(request.name, path.resolve(), request.patterns, commit=git.commit_of(path))
