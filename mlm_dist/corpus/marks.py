"""Marks of a text: which of its characters are a heading or a link, while the text is put together.

Cleaners change white space after they have read a link: they join lines, remove spaces at the ends and add some between
words. They change nothing else. So a mark is found again by counting the characters that are no white space.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

_RUN = re.compile(r"\S+")


# A heading or a link: the offset of its first character, the offset after its last one, and the level of the heading,
# from 1, or the target of the link. A plain tuple, because a large corpus has millions of them.
Mark: TypeAlias = tuple[int, int, int | str]


class Marked(NamedTuple):
    """A text and its marks."""

    text: str
    marks: Sequence[Mark] = ()


def as_heading(marked: Marked, level: int) -> Marked:
    """A text as a heading of a level."""
    text, marks = marked
    heading = (0, len(text), level)
    return Marked(text, [heading, *marks] if text == text.strip() else [*trimmed([heading], text), *marks])


def num_solid(text: str) -> int:
    """The number of characters that are no white space."""
    return len("".join(text.split()))


def located(counted: Iterable[Mark], text: str) -> Marked:
    """A text with marks whose offsets count only the characters that are no white space.

    A mark without such a character is removed.
    """
    marks = [mark for mark in counted if mark[0] < mark[1]]
    if not marks:
        return Marked(text)
    runs = _Runs(text)
    return Marked(text, [(runs.offset(start), runs.offset(stop - 1) + 1, value) for start, stop, value in marks])


def respaced(marked: Marked, text: str) -> Marked:
    """The marks of a text in another one, which has other white space."""
    if not marked.marks or marked.text == text:
        return Marked(text, marked.marks)
    runs = _Runs(marked.text)
    return located([(runs.number(start), runs.number(stop), value) for start, stop, value in marked.marks], text)


def assembled(parts: Sequence[str], marks: Iterable[tuple[int, Sequence[Mark]]]) -> Marked:
    """A text of parts, one after the other.

    Args:
        parts: The parts.
        marks: (index of a part, its marks).
    """
    before = list(accumulate(map(len, parts), initial=0))
    return Marked(
        "".join(parts),
        [(start + before[i], stop + before[i], value) for i, some in marks for start, stop, value in some],
    )


def trimmed(marks: list[Mark], text: str) -> list[Mark]:
    """The marks of a text without the white space at their ends; a mark of nothing else is removed."""
    for start, stop, _ in marks:
        if start >= stop or text[start].isspace() or text[stop - 1].isspace():
            break
    else:
        return marks  # as most are
    found = []
    for start, stop, value in marks:
        inside = text[start:stop]
        if not inside.isspace() and inside:
            found.append((start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip()), value))
    return found


def joined(separator: str, texts: Iterable[Marked]) -> Marked:
    """Texts one after the other."""
    parts, marks, size = [], [], 0
    for text, some in texts:
        marks += [(start + size, stop + size, value) for start, stop, value in some]
        parts.append(text)
        size += len(text) + len(separator)
    return Marked(separator.join(parts), marks)


def without(marked: Marked, unwanted: str) -> Marked:
    """A text without any occurrence of a string."""
    text, marks = marked
    if unwanted not in text:
        return marked
    ends = [found.end() for found in re.finditer(re.escape(unwanted), text)]

    def offset(before: int) -> int:
        return before - bisect_right(ends, before) * len(unwanted)

    kept = [(offset(start), offset(stop), value) for start, stop, value in marks]
    return Marked(text.replace(unwanted, ""), [mark for mark in kept if mark[0] < mark[1]])


class _Runs:
    """Where the characters of a text are that are no white space, numbered from 0."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._before = [0]  # characters before each run
        for run in _RUN.finditer(text):
            self._starts.append(run.start())
            self._before.append(self._before[-1] + run.end() - run.start())

    def number(self, offset: int) -> int:
        """How many are before an offset."""
        i = bisect_right(self._starts, offset) - 1
        return 0 if i < 0 else min(self._before[i] + offset - self._starts[i], self._before[i + 1])

    def offset(self, number: int) -> int:
        """The offset of one of them."""
        i = bisect_right(self._before, number) - 1
        return self._starts[i] + number - self._before[i]
