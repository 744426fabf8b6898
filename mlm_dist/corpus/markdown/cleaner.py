"""Markdown to plain text: markup is removed; text, tables and code are kept."""

from __future__ import annotations

from typing import ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.marks import Marked, without
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.plain_text import unmarked

TOO_DEEP = "markdown nested too deeply, kept as is"
TOO_LONG = "markdown too long to parse, kept as is"


class MarkdownCleaner:
    """Markdown as the tools for documentation read it."""

    suffixes: ClassVar[tuple[str, ...]] = (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd")
    requires: ClassVar[tuple[str, ...]] = ("markdown-it-py", "mdit-py-plugins")

    def clean(self, text: str) -> Cleaned:
        """See `Cleaner`."""
        return clean(text)


def clean(text: str) -> Cleaned:
    """Convert a Markdown document to plain text.

    docs/preparation.md lists what is removed; every other word is kept. The same text always gives the same result. A
    body that is nested too deeply for the parser, or would take too much time or memory, is kept as is, and so is a
    paragraph with too much markup; each is noted.
    """
    from mlm_dist.corpus.markdown import front_matter, templates
    from mlm_dist.corpus.markdown.block_rules import TooDeepError, TooMuchEffortError
    from mlm_dist.corpus.markdown.writer import Writer

    title, source = front_matter.split(unmarked(text))
    writer = Writer()
    try:
        writer.write(templates.protected(source) if "{%" in source else source)
        body, notes = without(writer.marked(), "\0n"), tuple(sorted(writer.notes))
    except (TooDeepError, RecursionError):
        body, notes = Marked(source.strip()), (TOO_DEEP,)
    except TooMuchEffortError:
        body, notes = Marked(source.strip()), (TOO_LONG,)
    cleaned = body.text
    if title and _bare(cleaned.partition("\n")[0]) != _bare(title):
        cleaned = f"{title}\n\n{cleaned}".rstrip()
    return Cleaned(cleaned, title, notes, Outline.of(body, cleaned, title))


def _bare(heading: str) -> str:
    return " ".join(heading.split()).strip("# ").casefold()
