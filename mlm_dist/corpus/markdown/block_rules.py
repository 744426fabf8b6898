"""Parser rules for block extensions of documentation tools, and for blocks in which the library loses text or time.

DocFX, MyST, Pandoc and Docusaurus: lines that begin with `:::`. MkDocs: `!!! note "Title"`, `??? note` and `=== "Tab"`
over indented blocks.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock, html_block, table
from markdown_it.rules_block.table import escapedSplit, getLine

from mlm_dist.corpus.markdown.inline_rules import heading

TRIES_PER_LINE = 10  # real documents stay under 2
MAX_TOKENS = 1_000_000  # some 400 MB of memory; real documents have one to 33 characters
MAX_COLUMNS = 10_000

_INDENTED = re.compile(r"(?:!!!|\?\?\?\+?|===[!+]?)[ \t]+(?=[\"\w])")
_VERBATIM_HTML = re.compile(r"<(?:script|style|pre|textarea)(?=[\s>])", re.IGNORECASE)
_UNTIL_COLONS = ("image", "code", "video")


def use(md: MarkdownIt) -> None:
    """Add these rules to a parser."""
    interrupts: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    md.block.ruler.before("table", "effort", _effort, interrupts)
    md.block.ruler.before("fence", "colons", _colons, interrupts)
    md.block.ruler.before("fence", "indented", _indented, interrupts)
    md.block.ruler.at("html_block", _html_block, {"alt": ["paragraph", "reference", "blockquote"]})
    md.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})


class TooMuchEffortError(Exception):
    """A document that takes far more time or memory than usual for its length."""


def _effort(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Not a block: checks the work done so far, because each quote around a line makes the parser try it again."""
    state.env["tries"] = tries = state.env.get("tries", 0) + 1
    if (tries > 10_000 and tries > TRIES_PER_LINE * len(state.bMarks)) or len(state.tokens) > MAX_TOKENS:
        raise TooMuchEffortError
    return False


def _colons(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A line that begins with `:::` is a block, even within a paragraph."""
    at = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith(":::", at) or state.is_code_block(start):
        return False
    if silent:
        return True
    after = start + 1
    line = state.src[at : state.eMarks[start]]
    if line[3:].lstrip().startswith(_UNTIL_COLONS):  # these may span several lines
        while after < min(end, start + 10) and ":::" not in line[3:] and not state.isEmpty(after):
            line = state.src[state.bMarks[after] : state.eMarks[after]]
            after += 1
    state.line = after
    token = state.push("inline", "", 0)
    token.content = state.getLines(start, after, state.blkIndent, False).strip()
    return True


def _indented(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A MkDocs admonition or tab: a title over blocks that are indented by four."""
    at = state.bMarks[start] + state.tShift[start]
    if state.src[at : at + 1] not in ("!", "?", "=") or state.is_code_block(start):
        return False
    marker = _INDENTED.match(state.src, at, state.eMarks[start])
    if not marker or silent:
        return marker is not None
    name, quote, title = state.src[marker.end() : state.eMarks[start]].partition('"')
    name = name.strip()
    title = title.rstrip().removesuffix('"') if quote else ""
    state.push("inline", "", 0).content = heading(name, title) if name else title
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


def _html_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Comments and tags whose content is not Markdown. Other tags are parts of paragraphs.

    A comment that is never closed is text, so that it hides nothing.
    """
    at = state.bMarks[start] + state.tShift[start]
    src = state.src
    if not src.startswith("<", at):
        return False
    if src.startswith("<!--", at):
        last = state.env.get("last_comment_end")
        if last is None:
            last = state.env["last_comment_end"] = src.rfind("-->")
        if last < at:
            return False
    elif not _VERBATIM_HTML.match(src, at):
        return False
    is_block: bool = html_block(state, start, end, silent)
    return is_block


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table, with the cells beyond its header, which the library drops."""
    first = len(state.tokens)
    if state.src.count("|", state.bMarks[start], state.eMarks[start]) > MAX_COLUMNS:
        return False
    if not table(state, start, end, silent):
        return False
    columns = line = 0
    for token in state.tokens[first:]:
        if token.type == "th_open":
            columns += 1
        elif token.type == "tr_open" and token.map:
            line = token.map[0]
        elif token.type == "tr_close" and line > start:
            row = getLine(state, line).strip().removeprefix("|")
            if row.count("|") - row.endswith("|") >= columns:
                token.meta["more"] = [cell.strip() for cell in escapedSplit(row)[columns:] if cell.strip()]
    return True
