"""A paragraph of an HTML document while it is read: the parts of its text, its links, its level if it is a heading."""

from __future__ import annotations

from itertools import accumulate

from mlm_dist.corpus.marks import Mark, Marked, as_heading, located, num_solid
from mlm_dist.corpus.plain_text import APART, one_line, separated

BREAK = "\1"  # a line break that stays


class Paragraph:
    """The current paragraph.

    Attributes:
        parts: The parts of its text.
        level: The level of the heading that it is, or 0.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.level = 0
        self._links: list[Mark] = []  # whose offsets count parts
        self._open: list[tuple[int, str]] = []  # links that have not ended: the part they begin with, and the target

    def open_link(self, target: str) -> None:
        """Begin a link. One that is around several blocks is the text of each."""
        self._open.append((len(self.parts), target))

    def close_link(self) -> None:
        """End the link that began last."""
        first, target = self._open.pop()
        self._links.append((first, len(self.parts), target))

    def end(self) -> Marked:
        """What was read since the paragraph before, on one line except for breaks."""
        parts, links = self.parts, self._links
        if not parts:
            return Marked("")
        links += [(first, len(parts), target) for first, target in self._open]
        self.parts, self._links = [], []
        self._open = [(0, target) for _, target in self._open]
        text = "".join(parts)
        if not text or text.isspace():
            return Marked("")
        text = "\n".join(line for line in map(one_line, separated(text).split(BREAK)) if line)
        marked = Marked(text)
        if links:
            sizes = (num_solid(part.replace(APART, "").replace(BREAK, "")) for part in parts)
            before = list(accumulate(sizes, initial=0))
            marked = located([(before[start], before[stop], target) for start, stop, target in links], text)
        return as_heading(marked, self.level) if self.level else marked
