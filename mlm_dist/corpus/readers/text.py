"""Text files that hold one document each, in any encoding."""

from __future__ import annotations

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.protocol import Document, DocumentReader, Dropped


class TextReader(DocumentReader):
    """Reads a text file as it is; files with zero bytes that no encoding explains are dropped as binary."""

    def document(self, name: str, data: bytes) -> Document | Dropped:
        """See `DocumentReader`."""
        if text_encoding.is_binary(data):
            return Dropped(name, "binary")
        return Document(name, *text_encoding.decode(data))
