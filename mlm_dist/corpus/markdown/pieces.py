"""The pieces of a paragraph's text while it is read, and how they are put together."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import accumulate

from mlm_dist.corpus.markdown import scripts
from mlm_dist.corpus.marks import Mark, Marked, located, num_solid, trimmed

APART = "\0a"  # around text that its markup separated from its neighbors; a cleaned text has no such character
SOFT = "\0s"  # a line break that is a space, or nothing
_VERBATIM = "\0v"  # code, formulas and values, in order
_MARKS = re.compile(" ?(?:\0[as])+ ?")
_CLOSERS = frozenset(".,;:!?)]}\u201d\u2019")
_BLANKS = re.compile(r"[ \t]*")


@dataclass
class Document:
    """What its paragraphs share.

    Args:
        references: {label: target} of the link reference definitions.
        components: Names of unknown tags that are opened and closed.
        mdx: Whether `{...}` is an expression.
        allowance: Characters that rules may still look ahead for what may never end.
    """

    references: dict[str, str] = field(default_factory=dict)
    components: frozenset[str] = frozenset()
    mdx: bool = False
    allowance: int = 1_000_000

    def within(self, start: int, limit: int) -> int:
        """Where to stop looking from a position on."""
        return start + min(limit, max(self.allowance, 100))


class Pieces:
    """A paragraph while it is read.

    Args:
        source: Markdown without the markers of its block.
        document: What the paragraphs of the document share.
    """

    def __init__(self, source: str, document: Document) -> None:
        self.source = source
        self.document = document
        self.pieces: list[str] = []
        self.in_row = False  # of a table in HTML
        self._verbatim: list[str] = []
        # Most paragraphs have neither, and never make them.
        self._marks: list[Mark] | None = None  # whose offsets count pieces
        self._opened: dict[str, tuple[int, int | str]] | None = None  # tags of links and headings
        self.line_break = " " if source.isascii() else SOFT

    def mark(self, first: int, value: int | str) -> None:
        """Mark the pieces from the first one on.

        Args:
            first: Index of the first piece.
            value: The level of a heading, or the target of a link.
        """
        if self._marks is None:
            self._marks = []
        self._marks.append((first, len(self.pieces), value))

    def open_mark(self, name: str, value: int | str) -> None:
        """Mark the pieces that follow, up to `close_mark` with the same name; never, if there is none."""
        self._opened = (self._opened or {}) | {name: (len(self.pieces), value)}

    def close_mark(self, name: str) -> None:
        """See `open_mark`."""
        if self._opened and name in self._opened:
            self.mark(*self._opened.pop(name))

    def marked(self) -> Marked:
        """What was read, on one line except for hard breaks, HTML that begins a line, and code."""
        raw = "".join(self.pieces)
        text = self._spaced(raw)
        if self._marks is None:
            return Marked(text)
        if text == raw:  # as most are
            before = list(accumulate(map(len, self.pieces), initial=0))
            return Marked(text, trimmed([(before[i], before[j], value) for i, j, value in self._marks], text))
        verbatim = iter(self._verbatim)
        sizes = (
            0 if piece in (APART, SOFT) else num_solid(next(verbatim) if piece == _VERBATIM else piece)
            for piece in self.pieces
        )
        before = list(accumulate(sizes, initial=0))
        return located([(before[i], before[j], value) for i, j, value in self._marks], text)

    def _spaced(self, text: str) -> str:
        """The pieces with the white space that their marks mean, and with what stays to the letter."""
        if "\0" in text:
            text = _MARKS.sub(_between, text)
        if "\n" in text:
            text = _trimmed(text)
        if not self._verbatim:
            return text.strip()
        parts = text.split(_VERBATIM)
        text = parts[0].lstrip()
        for code, part in zip(self._verbatim, parts[1:], strict=True):
            if code.startswith("\n"):
                text = text.rstrip(" \t\n")
                text += (code if text else code[1:]) + part.lstrip(" \t\n")
            else:
                text += code + part
        return text.rstrip(" \t\n") if parts[-1].strip() else text.strip("\n")

    def nested(self, text: str) -> str:
        """The text of a value in a tag, which may be Markdown."""
        return text

    def add(self, text: str, start: int, end: int) -> int:
        """Add the text of markup, which stays on a line of its own; returns where to read on."""
        source = self.source
        before = source.rfind("\n", max(0, start - 200), start) + 1
        fills_line = False
        if not text.endswith(":") and (before or start < 200) and not source[before:start].strip(" \t"):
            blanks = self.blanks(end)
            fills_line = blanks == len(source) or source[blanks] == "\n"
        if not fills_line:
            self.pieces += APART, text, APART
            return end
        if self.pieces and self.pieces[-1] in (" ", SOFT):
            self.pieces[-1] = "\n"
        self.pieces += text, "\n"
        return self.blanks(blanks + 1)

    def add_code(self, text: str, lines: bool = False) -> None:
        """Add text that stays to the letter.

        Args:
            text: Code, a formula or a value.
            lines: Whether it has lines of its own.
        """
        self.pieces.append(_VERBATIM)
        self._verbatim.append("\n" + text.strip("\n") + "\n" if lines else text)

    def blanks(self, position: int) -> int:
        """Where the spaces and tabs from a position on end."""
        found = _BLANKS.match(self.source, position)
        return found.end() if found else position

    def search(self, pattern: re.Pattern[str], start: int, limit: int = 200_000) -> re.Match[str] | None:
        """The first match from a position on; a search in vain uses up the document's allowance."""
        document = self.document
        end = min(len(self.source), document.within(start, limit))
        found = pattern.search(self.source, start, end)
        if not found:
            document.allowance -= end - start
        return found


def _between(marks: re.Match[str]) -> str:
    text = marks.string
    start, end = marks.span()
    if start == 0 or end == len(text):
        return ""
    if text[start] == " " or text[end - 1] == " ":
        return " "
    before, after = text[start - 1], text[end]
    if before.isspace() or after.isspace() or scripts.joins(before, after):
        return ""
    if "s" in marks[0]:
        return " "
    return " " if (after.isalnum() or after == "_") and (before.isalnum() or before in _CLOSERS) else ""


def _trimmed(text: str) -> str:
    """Lines without the spaces around them, and no blank lines."""
    lines = (line.strip(" \t") for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
