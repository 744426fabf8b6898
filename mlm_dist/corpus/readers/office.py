"""Documents of word processors, and books."""

from __future__ import annotations

import io
import zipfile
from typing import ClassVar

from mlm_dist.corpus.pandoc import program
from mlm_dist.corpus.pandoc.inline_text import TooDeepError
from mlm_dist.corpus.pandoc.writer import written
from mlm_dist.corpus.readers.protocol import Document, DocumentReader, Dropped, ReadSettings, too_large

MAX_RATIO = 16  # of uncompressed text to the size limit of a document
_TEXT = (".xml", ".rels", ".html", ".xhtml", ".htm", ".opf", ".ncx", ".css", ".svg")


class OfficeReader(DocumentReader):
    """Reads a zip archive of XML files through pandoc, as plain text."""

    requires: ClassVar[tuple[str, ...]] = program.REQUIRES

    format_: ClassVar[str]
    """What `pandoc --from` takes."""

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """See `DocumentReader`."""
        reason = _why_unreadable(data, MAX_RATIO * settings.max_bytes)
        if reason:
            return Dropped(name, reason)
        try:
            cleaned = written(program.read(data, self.format_))
        except (TooDeepError, program.UnreadableError) as error:
            return Dropped(name, f"{self.format_} {error}")
        size = len(cleaned.text.encode("utf-8", "replace"))
        if size > settings.max_bytes:
            return too_large(name, settings.max_bytes)
        return Document(name, cleaned.text, outline=cleaned.outline)


class DocxReader(OfficeReader):
    """Reads documents of Microsoft Word. Insertions of tracked changes are kept and deletions are not."""

    format_: ClassVar[str] = "docx"


class EpubReader(OfficeReader):
    """Reads EPUB books, in reading order."""

    format_: ClassVar[str] = "epub"


class OdtReader(OfficeReader):
    """Reads documents of LibreOffice and OpenOffice."""

    format_: ClassVar[str] = "odt"


def _why_unreadable(data: bytes, max_bytes: int) -> str | None:
    """Why an archive is not read; None if it is. Images and fonts are not read and do not count.

    A size in an archive may be wrong; then the limit on the memory of pandoc holds.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        return "encrypted" if data.startswith(b"\xd0\xcf\x11\xe0") else "not a zip archive"
    if any(entry.flag_bits & 1 for entry in entries):
        return "encrypted"
    if sum(entry.file_size for entry in entries if entry.filename.lower().endswith(_TEXT)) > max_bytes:
        return f"over {max_bytes / 1e6:g} MB uncompressed"
    return None
