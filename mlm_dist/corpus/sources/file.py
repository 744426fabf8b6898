"""Single files as a source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import READERS
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.errors import CorpusError


class File:
    """A file with a suffix of `READERS`, or of a cleaner."""

    is_local: ClassVar[bool] = True

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return os.path.exists(os.path.expanduser(name))

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        path = Path(os.path.expanduser(request.name))
        if not os.path.isfile(path):
            raise CorpusError(f"{request.key}: {request.name} is neither a file nor a folder")
        if path.suffix.lower() not in READERS and cleaners.markup_of(path.name) == "none":
            suffix = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
            raise CorpusError(
                f"{request.key}: {request.name} is {suffix}; give a folder, or a file that ends in "
                + ", ".join(sorted({*READERS.names(), *cleaners.suffixes()}))
            )
        path = path.resolve()
        return Fetched(request.name, path.parent, request.patterns, files=[path.name])
