"""reStructuredText to plain text: markup is removed; text, tables and code are kept."""

from __future__ import annotations

from typing import ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.plain_text import unmarked, with_title

TOO_DEEP = "rst nested too deeply, kept as is"
TOO_LONG = "rst too long to parse, kept as is"


class RstCleaner:
    """reStructuredText as docutils and Sphinx read it."""

    suffixes: ClassVar[tuple[str, ...]] = (".rst", ".rest")
    requires: ClassVar[tuple[str, ...]] = ("docutils", "selectolax")

    def clean(self, text: str) -> Cleaned:
        """See `Cleaner`. Directives and roles of any kind are read; no other file is."""
        from mlm_dist.corpus.rst import parser
        from mlm_dist.corpus.rst.writer import Writer

        text = unmarked(text)
        try:
            document, inliner = parser.parse(text)
            writer = Writer(document)
        except (parser.TooDeepError, RecursionError):
            return Cleaned(text.strip(), notes=(TOO_DEEP,))
        except parser.TooLongError:
            return Cleaned(text.strip(), notes=(TOO_LONG,))
        body = writer.marked()
        notes = tuple(sorted(inliner.notes | writer.notes))
        cleaned = with_title(inliner.title, body.text)
        return Cleaned(cleaned, inliner.title, notes, Outline.of(body, cleaned, inliner.title))
