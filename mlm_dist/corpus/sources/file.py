"""Single files as a source."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import READERS, compression, reader_of
from mlm_dist.corpus.readers.text_records import TextRecordsReader
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError

MAX_LINKS = 40  # that are followed, as in Linux

logger = logging.getLogger(__name__)


class File:
    """A file with a suffix of `READERS` or `CLEANERS`, compressed or not."""

    is_local: ClassVar[bool] = True

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return os.path.exists(os.path.expanduser(name))

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        path = Path(os.path.expanduser(request.name))
        if not os.path.isfile(path):
            raise CorpusError(f"{request.key}: {request.name} is neither a file nor a folder")
        named = _with_known_suffix(path)
        if named is None:
            raise _unknown_suffix(path, request)
        # The folder is resolved, but the file keeps its name: what a link points to may have a name without a suffix.
        root = named.parent.resolve()
        if request.config.separator is None and is_text(named.name):
            logger.info("%s is one document; corpus.separator divides it into several", named.name)
        return Fetched(request.name, root, request.patterns, files=[named.name])


def refuse_unknown_suffix(name: str, request: Request) -> None:
    """Refuse a file that is not on this disk, if its suffix does not say how it is read.

    Raises:
        CorpusError: Lists the suffixes that do.
    """
    if not _is_known(name):
        raise _unknown_suffix(Path(name), request)


def _unknown_suffix(path: Path, request: Request) -> CorpusError:
    suffix = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
    return CorpusError(
        f"{request.key}: {without_credentials(request.name)} is {suffix}; give a folder, or a file that ends in "
        + ", ".join(sorted({*READERS.names(), *cleaners.suffixes()}))
        + f" (compressed with {', '.join(compression.OPEN)} or not)"
    )


def _is_known(name: str) -> bool:
    return compression.content_suffix(name) in READERS or cleaners.markup_of(compression.content_name(name)) != "none"


def is_text(name: str) -> bool:
    """Whether a file that is itself the source is plain text, which may hold one document or several."""
    return isinstance(reader_of(name, records=True), TextRecordsReader)


def _with_known_suffix(path: Path) -> Path | None:
    """The path, or what it links to, whichever first has a suffix that says how it is read; None if neither has."""
    for _ in range(MAX_LINKS):
        if _is_known(path.name):
            return path
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None
