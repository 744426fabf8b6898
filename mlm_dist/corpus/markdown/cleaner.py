"""Markdown to plain text that loses no word: the markup goes; text, tables and code stay."""

from __future__ import annotations

from dataclasses import dataclass

from mlm_dist.corpus.markdown import front_matter
from mlm_dist.corpus.markdown.block_rules import TooMuchEffortError
from mlm_dist.corpus.markdown.writer import TooDeepError, Writer

TOO_DEEP = "markdown nested too deeply, left as it was"
TOO_LONG = "markdown too much to parse, left as it was"


@dataclass(frozen=True)
class Cleaned:
    """A document as plain text.

    Args:
        text: Headings and paragraphs on a line each, list items after `-` or their number, cells between ` | `, code as
            it was, blank lines between blocks. The front matter's title comes first if the document does not begin
            with it.
        title: That of the front matter.
        notes: What was unusual, to be counted.
    """

    text: str
    title: str | None = None
    notes: tuple[str, ...] = ()


def clean(text: str) -> Cleaned:
    """Turn a Markdown document into plain text.

    What vanishes is listed in docs/preparation.md; every other word stays. The same text always gives the same result.
    A body that is nested too deeply for the parser, or would take it too much time or memory, is left as it was, and so
    is a paragraph of too much markup; each is noted.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    title, source = front_matter.split(text)
    writer = Writer()
    try:
        writer.write(source)
        body, notes = writer.text(), tuple(sorted(writer.notes))
    except (TooDeepError, RecursionError):
        body, notes = source.strip(), (TOO_DEEP,)
    except TooMuchEffortError:
        body, notes = source.strip(), (TOO_LONG,)
    if title and _bare(body.partition("\n")[0]) != _bare(title):
        body = f"{title}\n\n{body}".rstrip()
    return Cleaned(body, title, notes)


def _bare(heading: str) -> str:
    return " ".join(heading.split()).strip("# ").casefold()
