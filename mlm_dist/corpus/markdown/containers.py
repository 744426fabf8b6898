"""Blocks that hold blocks: lines of `:::`, admonitions and tabs of MkDocs, `///` of its extensions."""

from __future__ import annotations

import re

from markdown_it.rules_block import StateBlock

from mlm_dist.corpus.markdown import directives, myst

_INDENTED = re.compile(
    r"(?:!!!|\?\?\?\+?)[ \t]*(?P<names>[\w-]+(?:[ \t]+[\w-]+){0,20})(?:[ \t]+\"(?P<title>.*)\")?[ \t]*\Z"
    r"|(?:===[!+]{0,2}|!!!|\?\?\?\+?)[ \t]+\"(?P<tab>.*?)\"?[ \t]*\Z"
    r"|(?:!!!|\?\?\?\+?|===[!+]?)[ \t]+(?P<rest>\w[^\"]{0,500}?)(?:\"(?P<open>.*))?\Z"
)
_MYST = re.compile(r"(:{3,100})[ \t]{0,9}\{([A-Za-z][\w:.+-]{0,60})\}[ \t]*(.*)\Z")
_SLASHES = re.compile(r"/{3,20}[ \t]+(?P<name>[\w-]+)(?:[ \t]*\|[ \t]*(?P<title>.*))?[ \t]*\Z|/{3,20}[ \t]*\Z")
_SLASH_OPTION = re.compile(r"[ \t]*(?:attrs|type|open|new|select|name):")
_VERBATIM = re.compile(r":::[ \t]*(mermaid|plantuml|math)[ \t]*\Z", re.IGNORECASE)


def colons(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A line that begins with `:::` is a block, even within a paragraph; what follows it is parsed as usual."""
    at = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith(":::", at):
        return False
    if silent:
        return True
    line = state.src[at : state.eMarks[start]]
    if directive := _MYST.match(line):
        return _directive(state, start, end, directive)
    if _VERBATIM.match(line) and _verbatim(state, start, end, ":::", ""):
        return True
    after = start + 1
    if directives.SEVERAL_LINES.match(state.src, at):  # these may span several lines
        while after < min(end, start + 10) and ":::" not in line[3:] and not state.isEmpty(after):
            line = state.src[state.bMarks[after] : state.eMarks[after]]
            after += 1
    state.line = after
    text = state.getLines(start, after, state.blkIndent, False).strip()
    title = directives.container_line(text)
    state.push("inline", "", 0).content = text if title is None else title
    return True


def _directive(state: StateBlock, start: int, end: int, found: re.Match[str]) -> bool:
    name, argument = found[2].lower(), found[3].strip()
    known = myst.is_prose(name) or name in ("image", "tip", "toctree", "button-link", "rubric")
    is_code = not known and not argument.startswith("{") and myst.is_code(name)
    if is_code and _verbatim(state, start, end, found[1], f"{{{name}}} {argument}"):
        return True
    line = start + 1
    options = []
    while line < end and (option := myst.OPTION.match(state.getLines(line, line + 1, state.blkIndent, False).strip())):
        options.append(option[0])
        line += 1
    state.line = line
    seen, _ = myst.options("\n".join(options))
    for text in (myst.heading(name, argument) if myst.is_known(name) else directives.container(name, argument), seen):
        if text:
            state.push("inline", "", 0).content = text
    return True


def _verbatim(state: StateBlock, start: int, end: int, closing: str, info: str) -> bool:
    """A container whose content is code, up to its last line."""
    document = state.env["document"]
    line = start + 1
    while line < end and state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip() != closing:
        if document.allowance < 0 or (state.sCount[line] < state.blkIndent and not state.isEmpty(line)):
            return False
        document.allowance -= 20
        line += 1
    if line >= end:
        return False
    token = state.push("fence", "code", 0)
    token.info = info
    token.content = state.getLines(start + 1, line, state.sCount[start], True)
    state.line = line + 1
    return True


def indented(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """An admonition or tab of MkDocs: a title over blocks that are indented by four."""
    at = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith(("!!!", "???", "==="), at):
        return False
    found = _INDENTED.match(state.src, at, state.eMarks[start])
    if not found or silent:
        return found is not None
    if found["names"]:
        title = directives.admonition(found["names"], found["title"])
    elif found["rest"]:
        title = directives.heading(found["rest"].strip(), found["open"] or "")
    else:
        title = found["tab"]
    state.push("inline", "", 0).content = title
    indent = state.sCount[start] + 4
    after = start + 1
    while after < end and (state.isEmpty(after) or state.sCount[after] >= indent):
        after += 1
    before = state.blkIndent, state.lineMax, state.parentType
    state.blkIndent, state.lineMax, state.parentType = indent, after, "admonition"
    state.push("admonition_open", "", 1)
    state.md.block.tokenize(state, start + 1, after)
    state.push("admonition_close", "", -1)
    state.blkIndent, state.lineMax, state.parentType = before
    state.line = after
    return True


def slashes(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`/// note | Title`, its options, and `///` at the end."""
    at = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith("///", at):
        return False
    found = _SLASHES.match(state.src, at, state.eMarks[start])
    if not found or silent:
        return found is not None
    line = start + 1
    while line < end and _SLASH_OPTION.match(state.src, state.bMarks[line], state.eMarks[line]):
        line += 1
    state.line = line
    if found["name"]:
        state.push("inline", "", 0).content = directives.container(found["name"], found["title"] or "")
    return True
