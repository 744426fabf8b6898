"""Paragraphs and headings, and link reference definitions at the beginning of a paragraph."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from mlm_dist.corpus.markdown import links, templates
from mlm_dist.corpus.markdown.block_state import Block

_HEADING = re.compile(r"(#{1,6})(?:[ \t]+|\Z)")
_HEADING_END = re.compile(r"(?:\A|(?<=[ \t]))#+[ \t]*\Z")
_ANCHOR = re.compile(r"(?P<slug>(?<=[^\s\]])\[\[[a-z0-9][\w-]*)\]\]\Z|\[\[(?P<same>[^\[\]]+)\]\]\Z")
_CONTENTS = re.compile(r"\[(?:TOC|\[_?toc_?\])\]\Z", re.IGNORECASE)
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*\Z")
# It begins with a set of characters, which makes the search fast.
_MAY_OPEN = re.compile(
    r"[<$\\{](?:(?<=<)(?:!--|(?i:pre|script|style|textarea))|(?<=\$)\$|(?<=\\)(?:begin\{|\[)|(?<=\{)(?:/\*|%|\{[<%]))"
)
_OPENINGS = re.compile(
    r"(?P<code>`+)|<(?P<tag>pre|script|style|textarea)(?=[\s>])[^<>]*>|(?P<comment><!--)|(?P<display>\$\$)"
    r"|\\begin\{(?P<begin>[A-Za-z]+\*?)\}|(?P<jsx>\{/\*)|(?P<template>\{%-?\s*[a-z]|\{\{[<%]\s*[a-z])|\\(?P<bracket>\[)(?=\s)|\\.",
    re.IGNORECASE,
)
_TAG_ENDS = {"{%": re.compile(r"%\}"), "{{<": re.compile(r">\}\}"), "{{%": re.compile(r"%\}\}")}
_SIMPLE = {"comment": "-->", "display": "$$", "jsx": "*/}", "bracket": "\\]"}

_CLOSE = Token("paragraph_close", "p", 0, level=-1)  # which the library's lists look for

Ends = Callable[[StateBlock, int, int], bool]


def heading(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A heading after `#`."""
    at = state.bMarks[start] + state.tShift[start]
    found = _HEADING.match(state.src, at, state.eMarks[start])
    if not found or silent:
        return found is not None
    text = _HEADING_END.sub("", state.src[found.end() : state.eMarks[start]].rstrip(" \t")).rstrip(" \t")
    if text.endswith("]]"):
        text = _without_anchor(text)
    _push_heading(state, text.strip(" \t"), found[1])
    state.line = start + 1
    return True


def _push_heading(state: StateBlock, text: str, markup: str) -> None:
    """Add a heading.

    Args:
        state: The state of the parser.
        text: Its text.
        markup: As many `#` as its level.
    """
    token = state.push("heading", "", 0)
    token.content, token.markup = text, markup


def _without_anchor(text: str) -> str:
    """A heading without the name of its anchor, as in `Title[[title]]`."""
    found = _ANCHOR.search(text)
    if not found:
        return text
    title = text[: found.start()]
    is_anchor = found["slug"] or "".join(filter(str.isalnum, title.casefold())) == "".join(
        filter(str.isalnum, found["same"].casefold())
    )
    return title if is_anchor else text


def paragraph(state: StateBlock, start: int, end: int, ends: Ends) -> bool:
    """A paragraph or a heading that is underlined.

    A comment, a formula or code in tags that begins within it may have blank lines.

    Args:
        state: The state of the parser.
        start: The first line.
        end: The line after the last one that it may have.
        ends: Whether a line begins another block.
    """
    before = state.parentType
    state.parentType = "paragraph"
    line = start + 1
    src, marks, shifts, counts, indent = state.src, state.bMarks, state.tShift, state.sCount, state.blkIndent
    last = state.eMarks
    underlined = ""
    checked = start
    while True:
        while line < end and marks[line] + shifts[line] < last[line]:
            column = counts[line]
            if column - indent <= 3:
                at = marks[line] + shifts[line]
                if column >= indent and src[at] in "=-" and _UNDERLINE.match(src, at, last[line]):
                    underlined = "#" if src[at] == "=" else "##"
                    break
                if column >= 0 and ends(state, line, end):
                    break
            line += 1
        reached = _extended(state, checked, line, end)
        if reached is None:
            break
        checked, line, underlined = start, reached, ""
    state.parentType = before
    if line == start + 1:
        text = src[marks[start] + shifts[start] : last[start]].rstrip(" \t")
    else:
        text = state.getLines(start, line, indent, False).strip(" \t\n")
    state.line = line + bool(underlined)
    if text.startswith("["):
        targets, text = links.definitions(text)
        references = state.env["references"]
        references.update((label, target) for label, target in targets.items() if label not in references)
        text = text.strip(" \t\n")
        if _CONTENTS.match(text) or not text:
            return True
    if underlined:
        _push_heading(state, text, underlined)
        return True
    block = Block("paragraph_open", 0, state.level)
    block.content = text
    state.tokens += block, _CLOSE
    return True


def _extended(state: StateBlock, first: int, line: int, end: int) -> int | None:
    """The line after what begins in these lines and has not ended, if it ends later in the same container."""
    src = state.src
    start, stop = state.bMarks[first], state.eMarks[line - 1]
    if line >= end or not _MAY_OPEN.search(src, start, stop):
        return None
    closing = unclosed(src[start:stop])
    if closing is None:
        return None
    document = state.env["document"]
    is_tag = closing in _TAG_ENDS.values()
    limit = document.within(stop, templates.MAX_CHARS if is_tag else 200_000)
    found = closing.search(src, stop, min(limit, state.bMarks[end]))
    document.allowance -= (found.start() if found else limit) - stop + (stop - start) // 4
    if not found or (is_tag and "\n\n" in src[stop : found.start()]):
        return None
    after = bisect_right(state.bMarks, found.start(), line, end)
    indent = state.blkIndent
    if any(0 <= state.sCount[i] < indent and not state.isEmpty(i) for i in range(line, after)):
        return None
    return after


def unclosed(text: str) -> re.Pattern[str] | None:
    """What would end the first comment, formula or code in tags of a text that does not end in it."""
    position = 0
    while found := _OPENINGS.search(text, position):
        position = found.end()
        kind = found.lastgroup
        if kind == "code":
            closing = re.compile(rf"(?<!`){found[0]}(?!`)").search(text, position)
            position = closing.end() if closing else position
            continue
        pattern: re.Pattern[str] | None = None
        if kind == "tag":
            pattern = re.compile(rf"</{found['tag']}\s*>", re.IGNORECASE)
        elif kind == "begin":
            pattern = re.compile(re.escape(f"\\end{{{found['begin']}}}"))
        elif kind == "template":
            code = templates.code(text, found.start())
            position = code.start if code else position
            pattern = code.closing if code else _TAG_ENDS[found[0][:3] if found[0][1] == "{" else "{%"]
        elif kind in _SIMPLE:
            pattern = re.compile(re.escape(_SIMPLE[kind]))
        if pattern:
            closing = pattern.search(text, position)
            if not closing:
                return pattern
            position = closing.end()
    return None
