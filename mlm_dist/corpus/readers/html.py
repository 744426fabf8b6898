"""HTML files, in the encoding that they declare."""

from __future__ import annotations

import codecs
import re

from mlm_dist.corpus.readers import legacy_encodings
from mlm_dist.corpus.readers.protocol import Document, Dropped, ReadSettings
from mlm_dist.corpus.readers.text import TextReader

HEAD = 4096  # bytes in which the encoding is declared
_DECLARED = re.compile(
    rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE
)
_LARGER = legacy_encodings.LARGER | {"iso8859-11": "cp874"}  # as browsers read these names


class HtmlReader(TextReader):
    """Reads an HTML file. A declared encoding decides if the file is not valid UTF-8 and `encoding` is not set."""

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """See `DocumentReader`."""
        encoding = None if settings.encoding else declared_encoding(data)
        if encoding is not None and not _is_utf8(data):
            try:
                return Document(name, data.decode(encoding), encoding, "html")
            except UnicodeDecodeError:
                pass  # what is declared is wrong
        return super().document(name, data, settings)


def declared_encoding(data: bytes) -> str | None:
    """The encoding that a document names at its beginning; None without one that Python knows."""
    found = _DECLARED.search(data[:HEAD])
    if (
        not found
        or data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        or b"\0" in data[:HEAD]
    ):
        return None
    try:
        info = codecs.lookup(found[1].decode("ascii"))
        "".encode(info.name)  # refuses codecs that are not for text
    except (LookupError, UnicodeError):
        return None
    # A document in UTF-16 cannot name its encoding in ASCII.
    return None if info.name.startswith(("utf-16", "utf-32")) else _LARGER.get(info.name, info.name)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
