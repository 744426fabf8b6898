"""The outline of a document: where its title, headings and links are in its text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
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

        return self._moved([(start, stop, -start)])

    def of_lines_kept(self, before: str, after: str) -> Outline:
        """The outline of the text as a filter leaves it; what is not wholly in lines that it keeps is removed.

        Args:
            before: The text.
            after: What a filter makes of it.
        """
        if before == after or self == Outline():
            return self
        lines, others = before.split("\n"), after.split("\n")
        starts, other_starts = (
            list(accumulate((len(line) + 1 for line in some), initial=0)) for some in (lines, others)
        )
        blocks = SequenceMatcher(None, lines, others, autojunk=False).get_matching_blocks()
        return self._moved(
            [(starts[i], starts[i + size] - 1, other_starts[j] - starts[i]) for i, j, size in blocks if size]
        )

    def _moved(self, parts: Sequence[tuple[int, int, int]]) -> Outline:
        """The outline of a text of parts of the text.

        Args:
            parts: (start, stop, how much its offsets grow) of each part, in order.
        """
        starts = [start for start, _, _ in parts]

        def moved(one: T) -> T | None:
            i = bisect_right(starts, one.start) - 1
            if i < 0 or one.stop > parts[i][1]:
                return None
            return one._replace(start=one.start + parts[i][2], stop=one.stop + parts[i][2])

        return Outline(
            moved(self.title) if self.title is not None else None,
            tuple(one for one in map(moved, self.headings) if one is not None),
            tuple(one for one in map(moved, self.links) if one is not None),
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
