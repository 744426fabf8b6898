"""The inside of paragraphs in the document tree of pandoc as plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from mlm_dist.corpus.marks import Mark, Marked, located, num_solid, respaced
from mlm_dist.corpus.pandoc import raw
from mlm_dist.corpus.plain_text import one_line

MAX_DEPTH = 50  # of nested blocks, and of nested markup within a paragraph

_BREAK = "\1"  # a line break that stays
# Those whose text is not that of others.
_WITHOUT_INLINES = frozenset(("Code", "LineBreak", "Math", "Note", "RawInline", "Str"))


class TooDeepError(Exception):
    """The document is nested too deeply."""


class InlineText:
    """The text of inline elements.

    Args:
        within: Gives the text of some blocks, which are the content of a footnote.

    Attributes:
        notes: The footnotes so far.
    """

    def __init__(self, within: Callable[[Any], str]) -> None:
        self.notes: list[str] = []
        self._within = within
        self._depth = 0
        self._num_solid = 0  # characters of a paragraph so far, without white space
        self._links: list[Mark] = []  # of a paragraph; their offsets count such characters

    def enter(self) -> None:
        """Begin what is nested in blocks or markup; `leave` ends it.

        Raises:
            TooDeepError: It is nested too deeply.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError("nested too deeply")

    def leave(self) -> None:
        """See `enter`."""
        self._depth -= 1

    def lines(self, inlines: Any) -> Marked:
        """The text with its links, on one line except for breaks."""
        text, marks = self._marked(inlines)
        lines = map(one_line, text.split(_BREAK))
        return respaced(Marked(text.replace(_BREAK, " "), marks), "\n".join(line for line in lines if line))

    def line(self, inlines: Any) -> Marked:
        """The text with its links, on one line."""
        marked = self._marked(inlines)
        return respaced(marked, one_line(marked.text))

    def _marked(self, inlines: Any) -> Marked:
        """The text with its links. The content of a footnote is not a part of the paragraph around it."""
        outer = self._num_solid, self._links
        self._num_solid, self._links = 0, []
        text = self.text(inlines)
        found = located(self._links, text)
        self._num_solid, self._links = outer
        return found

    def text(self, inlines: Any) -> str:
        """The text with line breaks."""
        self.enter()
        parts: list[str] = []
        for inline in inlines:
            kind, content = inline["t"], inline.get("c")
            if kind == "Superscript" and parts and parts[-1][-1:].isalnum():
                parts.append("^")  # 2^31 is not 231
                self._num_solid += 1
            first = self._num_solid
            parts.append(self._INLINES.get(kind, _nothing)(self, content))
            if kind in _WITHOUT_INLINES:
                self._num_solid = first + num_solid(parts[-1])
        self.leave()
        return "".join(parts)

    def _note(self, blocks: Any) -> str:
        self.notes.append("")
        number = len(self.notes)
        self.notes[number - 1] = one_line(self._within(blocks))
        return f"[{number}]"

    def _quoted(self, content: Any) -> str:
        self._num_solid += 1
        text = self.text(content[1])
        self._num_solid += 1
        return f"\u2018{text}\u2019" if content[0]["t"] == "SingleQuote" else f"\u201c{text}\u201d"

    def _link(self, content: Any) -> str:
        _, inlines, (target, _) = content
        first = self._num_solid
        text = self.text(inlines)
        if target:
            self._links.append((first, self._num_solid, target))
        return text

    def _math(self, content: Any) -> str:
        if content[1].startswith("\\begin{"):
            return str(content[1])
        return f"$${content[1]}$$" if content[0]["t"] == "DisplayMath" else f"${content[1]}$"

    def _second(self, content: Any) -> str:
        return self.text(content[1])

    _INLINES: ClassVar[dict[str, Callable[[InlineText, Any], str]]] = {
        "Cite": _second,
        "Code": lambda _, content: content[1],
        "Emph": text,
        "Image": _second,
        "LineBreak": lambda _, content: _BREAK,
        "Link": _link,
        "Math": _math,
        "Note": _note,
        "Quoted": _quoted,
        "RawInline": lambda _, content: raw.text(*content),
        "SmallCaps": text,
        "SoftBreak": lambda _, content: "\n",
        "Space": lambda _, content: " ",
        "Span": _second,
        "Str": lambda _, content: content,
        "Strikeout": text,
        "Strong": text,
        "Subscript": text,
        "Superscript": text,
        "Underline": text,
    }


def _nothing(inline_text: InlineText, content: Any) -> str:
    return ""
