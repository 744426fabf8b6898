"""Code between fences of backticks or tildes."""

from __future__ import annotations

import re

from markdown_it.rules_block import StateBlock

_OPENING = re.compile(r"(`{3,}(?=[^`]*\Z)|~{3,})(.*)", re.DOTALL)


def fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A block of code; one that is never closed ends with its container."""
    src, marks, shifts, stops = state.src, state.bMarks, state.tShift, state.eMarks
    opening = _OPENING.match(src[marks[start] + shifts[start] : stops[start]])
    if not opening or silent:
        return opening is not None
    marker, length = opening[1][0], len(opening[1])
    line = start + 1
    closed = False
    while line < end:
        at = marks[line] + shifts[line]
        if at < stops[line]:
            if state.sCount[line] < state.blkIndent:
                break
            if src[at] == marker and not state.is_code_block(line):
                text = src[at : stops[line]].rstrip(" \t")
                if len(text) >= length and not text.strip(marker):
                    closed = True
                    break
        line += 1
    token = state.push("fence", "code", 0)
    token.info = opening[2]
    token.content = state.getLines(start + 1, line, state.sCount[start], True)
    state.line = line + closed
    return True
