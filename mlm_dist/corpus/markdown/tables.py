"""Tables of GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it.rules_block import StateBlock

MAX_COLUMNS = 10_000

_UNDER_HEADER = re.compile(r"(?:[|:]|-(?=[-|:]))[|:\- \t]*")
_COLUMN = re.compile(r":?-+:?")
_BAR = re.compile(r"(?<!\\)\|")


def table(state: StateBlock, start: int, silent: bool, end: int, ends: Callable[[StateBlock, int, int], bool]) -> bool:
    """A table whose header is at a line, with all cells of its rows, even of those beyond the header.

    Args:
        state: The state of the parser.
        start: The line of the header.
        silent: Whether only to tell if there is a table.
        end: The line after the last one that it may have.
        ends: Whether a line begins another block.
    """
    if start + 2 > end or state.sCount[start + 1] < state.blkIndent or state.is_code_block(start + 1):
        return False
    at, stop = state.bMarks[start + 1] + state.tShift[start + 1], state.eMarks[start + 1]
    if stop - at < 2 or not _UNDER_HEADER.fullmatch(state.src, at, stop):
        return False
    columns = _trimmed(state.src[at:stop].strip().split("|"))
    if not all(_COLUMN.fullmatch(column.strip()) for column in columns):
        return False
    header = _line(state, start)
    if "|" not in header or header.count("|") > MAX_COLUMNS or len(cells(header)) != len(columns) or not columns:
        return False
    if silent:
        return True
    before = state.parentType
    state.parentType = "table"
    state.push("table_open", "table", 1)
    _push(state, cells(header))
    line = start + 2
    while line < end and state.sCount[line] >= state.blkIndent and not state.is_code_block(line):
        text = _line(state, line)
        if not text or ends(state, line, end):
            break
        _push(state, cells(text))
        line += 1
    state.push("table_close", "table", -1)
    state.parentType = before
    state.line = line
    return True


def cells(line: str) -> list[str]:
    """The cells of a row; a bar after a backslash is a part of its cell."""
    if "\\|" in line:
        return [cell.replace("\\|", "|").strip() for cell in _trimmed(_BAR.split(line))]
    return [cell.strip() for cell in _trimmed(line.split("|"))]


def _trimmed(parts: list[str]) -> list[str]:
    """Without what is before a bar at the beginning and after one at the end."""
    if parts and not parts[0].strip():
        del parts[0]
    if parts and not parts[-1].strip():
        del parts[-1]
    return parts


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()


def _push(state: StateBlock, row: list[str]) -> None:
    state.push("tr_open", "tr", 1)
    for cell in row:
        state.push("inline", "", 0).content = cell
    state.push("tr_close", "tr", -1)
