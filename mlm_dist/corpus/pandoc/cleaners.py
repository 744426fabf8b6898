"""Cleaners of text formats that pandoc reads."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.pandoc import asciidoc, latex, program
from mlm_dist.corpus.pandoc.inline_text import TooDeepError
from mlm_dist.corpus.pandoc.writer import written
from mlm_dist.corpus.plain_text import unmarked


class PandocCleaner:
    """A text format. A document that pandoc cannot read is kept as it is, which is noted."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = program.REQUIRES

    format_: ClassVar[str]
    """What `pandoc --from` takes."""

    def clean(self, text: str) -> Cleaned:
        """See `Cleaner`."""
        text = unmarked(text)
        prepared, notes = self.prepared(text)
        try:
            cleaned = written(self.read(prepared))
        except (TooDeepError, program.UnreadableError) as error:
            return Cleaned(text.strip(), notes=(f"{self.format_.partition('+')[0]} {error}, kept as is",))
        return dataclasses.replace(cleaned, notes=tuple(sorted({*cleaned.notes, *notes})))

    def read(self, text: str) -> dict[str, Any]:
        """The document tree.

        Raises:
            UnreadableError: The text is not in this format, or takes too much time or memory.
        """
        return program.read(text.encode("utf-8", "replace"), self.format_)

    def prepared(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The text without what pandoc cannot read, and notes."""
        return text, ()


class AsciiDocCleaner(PandocCleaner):
    """AsciiDoc. Text under a condition is kept, and included files are not read."""

    suffixes: ClassVar[tuple[str, ...]] = (".adoc", ".asciidoc", ".asc")
    format_: ClassVar[str] = "asciidoc"

    def prepared(self, text: str) -> tuple[str, tuple[str, ...]]:
        """See `PandocCleaner`."""
        return asciidoc.prepared(text)


class LatexCleaner(PandocCleaner):
    """LaTeX. The arguments of commands that pandoc does not know are kept as text."""

    suffixes: ClassVar[tuple[str, ...]] = (".tex", ".latex", ".ltx")
    format_: ClassVar[str] = "latex+raw_tex"

    def read(self, text: str) -> dict[str, Any]:
        """See `PandocCleaner`."""
        return latex.read(text, super().read)


class OrgCleaner(PandocCleaner):
    """Org mode."""

    suffixes: ClassVar[tuple[str, ...]] = (".org",)
    format_: ClassVar[str] = "org"


class RtfCleaner(PandocCleaner):
    """Rich Text Format."""

    suffixes: ClassVar[tuple[str, ...]] = (".rtf",)
    format_: ClassVar[str] = "rtf"


class MediaWikiCleaner(PandocCleaner):
    """The markup of Wikipedia."""

    suffixes: ClassVar[tuple[str, ...]] = (".mediawiki", ".wiki")
    format_: ClassVar[str] = "mediawiki"


class TextileCleaner(PandocCleaner):
    """Textile."""

    suffixes: ClassVar[tuple[str, ...]] = (".textile",)
    format_: ClassVar[str] = "textile"


class TypstCleaner(PandocCleaner):
    """Typst."""

    suffixes: ClassVar[tuple[str, ...]] = (".typ",)
    format_: ClassVar[str] = "typst"
