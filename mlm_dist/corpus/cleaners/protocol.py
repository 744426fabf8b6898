"""What a cleaner of a kind of markup provides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from mlm_dist.corpus.outline import Outline


@dataclass(frozen=True)
class Cleaned:
    """A document as plain text.

    Args:
        text: Headings and paragraphs on one line each, list items after `-` or their number, cells separated by ` | `,
            code unchanged, blank lines between blocks. A title outside the body comes first, unless the document begins
            with it.
        title: The title outside the body, such as in the front matter.
        notes: What was unusual, which the manifest counts.
        outline: Where title, headings and links are in the text.
    """

    text: str
    title: str | None = None
    notes: tuple[str, ...] = ()
    outline: Outline = field(default_factory=Outline)


class Cleaner(Protocol):
    """A kind of markup. It is made without arguments and holds no state.

    The same text always gives the same result, whatever was cleaned before, and nothing outside the text is read.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of files with this markup, in lower case, such as .md."""

    requires: ClassVar[tuple[str, ...]]
    """Packages, by their names on PyPI, that cleaning needs; their versions are a part of a corpus's digest."""

    def clean(self, text: str) -> Cleaned:
        """The plain text of a document: markup is removed; every other word, tables and code are kept."""
        ...
