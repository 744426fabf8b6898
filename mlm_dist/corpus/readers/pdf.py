"""PDF files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.readers.protocol import Document, DocumentReader, Dropped, ReadSettings, too_large

SECONDS = 60.0
_REASONS = {3: "not a PDF file, or damaged", 4: "encrypted", 5: "over the memory limit"}
# A hyphen at the end of a line between lower-case letters, if the word has no other hyphen. Instead of a hyphen and
# the line break, pdfium often writes one of two characters that have no other meaning.
_HYPHENATED = re.compile(
    r"(?<![\w\x02\ufffe-])([^\W\d_]*[^\W\d_A-Z])(?:[-\xad\u2010]\n|[\x02\ufffe]\n?)([^\W\d_A-Z]+)(?![\w\x02\ufffe-])"
)
_MARK = re.compile(r"[\x02\ufffe]\n?")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


class PdfReader(DocumentReader):
    """Reads the text of the pages in order. Scans without text are dropped.

    The library runs in a process of its own, so that a damaged file costs one document and not the run.
    """

    requires: ClassVar[tuple[str, ...]] = ("pypdfium2",)

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """See `DocumentReader`."""
        script = Path(__file__).with_name("pdf_text.py")
        command = [sys.executable, "-I", "-W", "ignore", str(script), str(settings.max_bytes)]
        try:
            ended = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return Dropped(name, f"over {SECONDS:g} s to read")
        if ended.returncode == 6:
            return too_large(name, settings.max_bytes)
        if ended.returncode:
            return Dropped(name, _REASONS.get(ended.returncode, f"not read by pdfium (exit status {ended.returncode})"))
        text = joined(ended.stdout.decode("utf-8", "replace"))
        return Document(name, text) if text.strip() else Dropped(name, "PDF without text")


def joined(text: str) -> str:
    """The text with the two parts of hyphenated words joined.

    The hyphen is kept if the text has the word with a hyphen elsewhere and nowhere without.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    words = set(_WORD.findall(text.lower()))

    def word(parts: re.Match[str]) -> str:
        first, second = parts[1], parts[2]
        with_hyphen = f"{first}-{second}"
        keeps = with_hyphen.lower() in words and (first + second).lower() not in words
        return with_hyphen if keeps else first + second

    return _MARK.sub("-", _HYPHENATED.sub(word, text))
