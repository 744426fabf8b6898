"""The outline of a document: where its title, headings and links are in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from mlm_dist.corpus.marks import Marked


class Span(NamedTuple):
    """Consecutive characters of a text.

    Args:
        start: Offset of the first.
        stop: Offset after the last.
    """

    start: int
    stop: int


class Heading(NamedTuple):
    """A heading.

    Args:
        start: Offset of its first character.
        stop: Offset after its last character.
        level: Its level, from 1 for the highest.
    """

    start: int
    stop: int
    level: int


class Link(NamedTuple):
    """A link.

    Args:
        start: Offset of the first character of its text.
        stop: Offset after the last one.
        target: Where it leads, as written.
    """

    start: int
    stop: int
    target: str


T = TypeVar("T", Span, Heading, Link)


@dataclass(frozen=True)
class Outline:
    """Title, headings and links of a text; a plain text has none.

    Args:
        title: The title: that outside the body, such as in the front matter, which is the first line of the text; else
            the first heading, if the text begins with it or if it is the only one of level 1.
        headings: The headings in order, with the title if it is one.
        links: The links that have a text, in order.
    """

    title: Span | None = None
    headings: tuple[Heading, ...] = ()
    links: tuple[Link, ...] = ()

    @classmethod
    def of(cls, body: Marked, text: str, title: str | None) -> Outline:
        """The outline of a cleaned document.

        Args:
            body: Its body, with marks.
            text: The body, or the title, a blank line and the body; see `plain_text.with_title`.
            title: The title outside the body.
        """
        shift = 0 if title is None or text == body.text else len(title) + 2
        headings, links = [], []
        for start, stop, value in body.marks:
            if isinstance(value, int):
                headings.append(Heading(start + shift, stop + shift, value))
            else:
                links.append(Link(start + shift, stop + shift, value))
        headings.sort()
        links.sort()
        return cls(_title(text, headings, is_outside=title is not None), tuple(headings), tuple(links))

    def part(self, start: int, stop: int) -> Outline:
        """The outline of a part of the text; what is not wholly in the part is removed.

        Args:
            start: Offset of the part's first character.
            stop: Offset after its last one.
        """

        def inside(one: Span | Heading | Link) -> bool:
            return start <= one.start < one.stop <= stop

        def moved(one: T) -> T:
            return one._replace(start=one.start - start, stop=one.stop - start)

        return Outline(
            moved(self.title) if self.title is not None and inside(self.title) else None,
            tuple(map(moved, filter(inside, self.headings))),
            tuple(map(moved, filter(inside, self.links))),
        )


def _title(text: str, headings: Sequence[Heading], *, is_outside: bool) -> Span | None:
    if is_outside:
        line = text.partition("\n")[0]
        start = len(line) - len(line.lstrip())
        return Span(start, len(line.rstrip())) if line.strip() else None
    if not headings:
        return None
    first = headings[0]
    is_only = first.level == 1 and [heading.level for heading in headings].count(1) == 1
    return Span(first.start, first.stop) if is_only or not text[: first.start].strip() else None
