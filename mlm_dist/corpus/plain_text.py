"""Plain text in the convention of `Cleaned.text`, written block by block."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from mlm_dist.corpus.marks import Mark, Marked, assembled, joined, respaced

# Scripts that are written without spaces: Han, kana, Thai, Lao, Burmese, Khmer, and their punctuation.
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff01-\uff9f\uffe0-\uffe6\U00020000-\U0003ffff"
)
_BREAK = re.compile(rf"(?<=[{_NO_SPACES}])[ \t]*\n[ \t]*(?=[{_NO_SPACES}])")
_SPACE = re.compile(r"[ \t\n\r\f\v\xa0]+")

APART = "\0"
"""Put around text that its markup separated from its neighbors, see `separated`; `unmarked` text has none."""

_GLUED = re.compile(rf"(?<=\w){APART}+(?=\w)")


def unmarked(text: str) -> str:
    """The text with line feeds for all ends of lines, and without a byte-order mark and zero characters."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def without_surrogates(text: str) -> str:
    """The text with a question mark for each lone surrogate, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def separated(text: str) -> str:
    """The text with a space for `APART` between two letters, and nothing for it elsewhere."""
    return _GLUED.sub(" ", text).replace(APART, "") if APART in text else text


def one_line(text: str) -> str:
    """The text on one line. A line break between two letters of a script without spaces leaves nothing."""
    if "\n" in text and not text.isascii():
        text = _BREAK.sub("", text.strip())
    return _SPACE.sub(" ", text).strip()


def with_title(title: str | None, text: str) -> str:
    """The text after its title, unless it begins with the title."""
    if title is None or _bare(text.partition("\n")[0]) == _bare(title):
        return text
    return f"{title}\n\n{text}".rstrip()


def _bare(heading: str) -> str:
    return " ".join(heading.split()).casefold()


class Blocks:
    """Headings, paragraphs, lists, tables and code, each added after the one before."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._marks: list[tuple[int, Sequence[Mark]]] = []  # of the parts with an index
        self._marker = ""  # of an item whose text follows
        self._first = False  # whether the next block is the first of its item
        self._apart = False  # whether a blank line comes before the next block even so
        self._lists = 0  # nested lists

    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    def marked(self) -> Marked:
        """The text so far, with the marks of its blocks."""
        return assembled(self._parts, self._marks)

    def line(self) -> Marked:
        """The text so far on one line, with the marks of its blocks."""
        marked = self.marked()
        return respaced(marked, one_line(marked.text))

    def add(self, text: str, *, tight: bool = False, marks: Sequence[Mark] = ()) -> None:
        """Add a block after a blank line.

        Args:
            text: The block; an empty one is not added.
            tight: Whether it begins on the next line instead, such as a further row of a table.
            marks: The marks of the block.
        """
        if not text.strip():
            return
        tight = (tight or self._first) and not self._apart
        if self._parts:
            self._parts.append("\n" if tight else "\n\n")
        self._apart = not (tight or self._first)
        self._parts += self._marker, text
        if marks:
            self._marks.append((len(self._parts) - 1, marks))
        self._marker, self._first = "", False

    @contextlib.contextmanager
    def list(self) -> Iterator[None]:
        """The items that are added in the body belong to one list."""
        self._apart |= self._lists == 0
        self._lists += 1
        yield
        self._lists -= 1
        self._apart |= self._lists == 0

    @contextlib.contextmanager
    def item(self, marker: str) -> Iterator[None]:
        """The blocks that are added in the body belong to one item of a list. A number without text is text."""
        self._marker = f"{self._marker or '  ' * max(self._lists - 1, 0)}{marker} "
        self._first = True
        yield
        marker, self._marker = self._marker.rstrip(), ""
        if any(map(str.isalnum, marker)):
            self.add(marker)
        self._first = False

    @contextlib.contextmanager
    def definition(self) -> Iterator[None]:
        """The blocks that are added in the body explain the block before, which they follow on the next line."""
        self._marker, self._first, self._apart = f"{self._marker}: ", True, False
        yield
        self._marker, self._first = "", False

    @contextlib.contextmanager
    def table(self) -> Iterator[None]:
        """The rows that are added in the body belong to one table."""
        self._apart = True
        yield
        self._apart = True

    def row(self, cells: Sequence[Marked]) -> None:
        """Add a row of a table; empty cells at its end are removed."""
        last = max((i for i, cell in enumerate(cells, 1) if cell.text), default=0)
        text, marks = joined(" | ", cells[:last])
        if self._apart:
            self.add(text, marks=marks)
            self._apart &= not last
        else:
            self.add(text, tight=True, marks=marks)
