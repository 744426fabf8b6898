"""Blocks that stay to the letter or vanish: code between tags, formulas, JavaScript of MDX, includes, lines of tags."""

from __future__ import annotations

import re

from markdown_it.rules_block import StateBlock

from mlm_dist.corpus.markdown import components, math, templates

_BRACKET = re.compile(r"\\{1,2}\[[ \t]*\n")
_ATTRIBUTES = re.compile(r"\{:[^{}\n]{1,500}\}[ \t]*\Z")
_SVELTE = re.compile(
    r"\{(?:#(?:if|each|await|key|snippet)\s|:(?:else|then|catch)\b|/(?:if|each|await|key|snippet)\b)[^{}\n]{0,500}\}"
    r"[ \t]*\Z"
)
_SNIPPET = re.compile(r"-{1,5}8<-{1,5}(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'|\[[^\]\n]*\]))?[ \t]*\Z")
_SNIPPET_MARKER = re.compile(r"-{1,5}8<-{1,5}[ \t]*\Z")


def braces(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Code between tags of templates, a comment of MDX, or a line with nothing but tags or attributes."""
    at = state.bMarks[start] + state.tShift[start]
    src, stop = state.src, state.eMarks[start]
    code = templates.code(src, at) if src.startswith(("{%", "{{"), at) else None
    if code:
        inside = _lines(state, start, end, at, code.start, code.closing)
        if inside and code.markdown and "`" in inside[1]:
            inside = None  # only the tags are markup
        if inside:
            return silent or _push_code(state, inside, "" if code.hidden else code.text, code.hidden)
    if src.startswith("{/*", at):
        comment = _lines(state, start, end, at, at + 3, re.compile(r"\*/\s*\}"))
        if comment:
            return silent or _push_code(state, comment, "", True)
    if _SVELTE.match(src, at, stop):
        state.line = start + 1
        return True
    if templates.LINE.match(src, at, stop) or _ATTRIBUTES.match(src, at, stop):
        if not silent:
            state.push("inline", "", 0).content = src[at:stop]
            state.line = start + 1
        return True
    if not silent and state.env["document"].mdx:
        document = state.env["document"]
        limit = min(document.within(at, 20_000), state.eMarks[end - 1])
        expression_end = components.expression_end(src, at, limit)
        document.allowance -= 20 * ((expression_end or limit) - at)
        if expression_end and expression_end > stop:
            return _several_lines(state, start, end, expression_end)
    return False


def formulas(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own, with its markers."""
    at = state.bMarks[start] + state.tShift[start]
    closing = math.closing(state.src, at, state.eMarks[start])
    if not closing:
        return False
    found = _lines(state, start, end, at, at + 2, re.compile(re.escape(closing)))
    if not found or found[0] == start + 1:
        return False
    if silent:
        return True
    line, _, rest = found
    text = state.getLines(start, line, state.blkIndent, False)
    formula = text[: len(text) - len(rest)] if rest else text
    is_bracket = closing.endswith("]")
    if is_bracket and ("\n\n" in formula or not (_BRACKET.match(formula) or math.is_tex(formula[2:-2]))):
        return False
    state.push("formula", "", 0).content = formula.strip("\n")
    _push_rest(state, rest)
    state.line = line
    return True


def modules(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Statements of JavaScript in MDX, which begin at the start of a line after a blank line."""
    if silent or state.level or state.sCount[start] or not state.env["document"].mdx:
        return False
    stop = components.module_end(state.src, state.bMarks[start], state.eMarks[end - 1])
    if stop is None:
        return False
    line = start + 1
    while line < end and state.bMarks[line] < stop:
        line += 1
    state.line = line
    return True


def tags(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A line with nothing but tags of components, or a tag of several lines."""
    at, stop = state.bMarks[start] + state.tShift[start], state.eMarks[start]
    if components.LINE.match(state.src, at, stop):
        if components.placeholders_only(state.src[at:stop]) and not state.env["document"].mdx:
            return False
        if not silent:
            state.push("inline", "", 0).content = state.src[at:stop]
            state.line = start + 1
        return True
    document = state.env["document"]
    if silent or (">" in state.src[at:stop] and "{" not in state.src[at:stop]):
        return False
    limit = min(document.within(at, 20_000), state.eMarks[end - 1])
    tag_end = components.tag_end(state.src, at, limit)
    document.allowance -= 4 * ((tag_end or limit) - at)
    return tag_end is not None and tag_end > stop and _several_lines(state, start, end, tag_end)


def snippets(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`--8<-- "file"`, or names of files between such lines."""
    at = state.bMarks[start] + state.tShift[start]
    if not _SNIPPET.match(state.src, at, state.eMarks[start]):
        return False
    if silent:
        return True
    line = start + 1
    if _SNIPPET_MARKER.match(state.src, at, state.eMarks[start]):
        while line < min(end, start + 50) and not _SNIPPET_MARKER.match(
            state.src, state.bMarks[line] + state.tShift[line], state.eMarks[line]
        ):
            line += 1
        line = line + 1 if line < min(end, start + 50) else start + 1
    state.line = line
    return True


def _several_lines(state: StateBlock, start: int, end: int, stop: int) -> bool:
    """A paragraph of the lines up to a position, even with blank lines or what looks like blocks."""
    line = start + 1
    while line < end and state.bMarks[line] < stop:
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return False
        line += 1
    state.push("inline", "", 0).content = state.getLines(start, line, state.blkIndent, False).strip()
    state.line = line
    return True


def _lines(
    state: StateBlock, start: int, end: int, at: int, inside: int, closing: re.Pattern[str]
) -> tuple[int, str, str] | None:
    """The line after what begins at a position and ends in the same container, its content, and what follows it."""
    document = state.env["document"]
    limit = min(document.within(inside, 1_000_000), state.eMarks[end - 1])
    found = closing.search(state.src, inside, limit)
    if not found:
        document.allowance -= max(limit - inside, 0)
        return None
    line = start + 1
    while line < end and state.bMarks[line] < found.end():
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            document.allowance -= found.end() - at
            return None
        line += 1
    rest = state.src[found.end() : state.eMarks[line - 1]]
    if line == start + 1:
        return line, state.src[inside : found.start()], rest
    text = state.src[inside : state.eMarks[start]] + "\n" + state.getLines(start + 1, line, state.sCount[start], False)
    return line, text[: len(text) - len(rest) - (found.end() - found.start())], rest


def _push_code(state: StateBlock, found: tuple[int, str, str], title: str, hidden: bool) -> bool:
    line, text, rest = found
    if "\n" not in text and (rest.strip() and not hidden):
        return False  # a part of a paragraph
    if title:
        state.push("inline", "", 0).content = title
    if not hidden:
        state.push("code_block", "", 0).content = text.rstrip(" \t") if "\n" in text else text
    _push_rest(state, rest)
    state.line = line
    return True


def _push_rest(state: StateBlock, rest: str) -> None:
    if rest.strip():
        state.push("inline", "", 0).content = rest.strip()
