"""Text files that hold one document each, in any encoding."""

from __future__ import annotations

from typing import ClassVar

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.compression import content_name
from mlm_dist.corpus.readers.protocol import Document, DocumentReader, Dropped, ReadSettings


class TextReader(DocumentReader):
    """Reads a text file, with the markup of its suffix; files with zero bytes that no encoding explains are dropped."""

    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """See `DocumentReader`."""
        if text_encoding.is_binary(data, settings.encoding):
            return Dropped(name, "binary")
        markup = cleaners.markup_of(content_name(name))
        return Document(name, *text_encoding.decode(data, settings.encoding), markup)
