"""The parser of blocks: rules of the library and of documentation tools, chosen by the first character of a line."""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it import MarkdownIt
from markdown_it.parser_block import ParserBlock
from markdown_it.rules_block import StateBlock, blockquote, code, html_block, list_block
from markdown_it.token import Token
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.footnote.index import footnote_def

from mlm_dist.corpus.markdown import code_rules, containers, paragraphs, tables
from mlm_dist.corpus.markdown.block_state import State
from mlm_dist.corpus.markdown.fences import fence
from mlm_dist.corpus.markdown.pieces import Document

TRIES_PER_LINE = 10  # real documents stay under 2
MAX_TOKENS = 1_000_000  # some 400 MB of memory; real documents have one to 33 characters

Rule = Callable[[StateBlock, int, int, bool], bool]

_VERBATIM_HTML = re.compile(r"<(?:script|style|pre|textarea)(?=[\s>])", re.IGNORECASE)


class TooMuchEffortError(Exception):
    """A document that takes far more time or memory than usual for its length."""


class TooDeepError(Exception):
    """The document is nested too deeply for the library."""


class Parser(ParserBlock):
    """The parser of blocks, with one rule that selects among the others."""

    def __init__(self) -> None:
        super().__init__()
        self.ruler.push("all", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})
        self.ruler.enableOnly(["all"])

    def tokenize(self, state: StateBlock, startLine: int, endLine: int) -> None:
        """As the library's, but what is nested too deeply is an error."""
        line = startLine
        had_blank_lines = False
        marks, shifts, ends, indents = state.bMarks, state.tShift, state.eMarks, state.sCount
        while line < endLine:
            while line < endLine and marks[line] + shifts[line] >= ends[line]:
                line += 1
            state.line = line
            if line >= endLine or indents[line] < state.blkIndent:
                break
            if state.level >= state.md.options.maxNesting:
                raise TooDeepError
            _block(state, line, endLine, False)
            state.tight = not had_blank_lines
            line = state.line
            if line - 1 < endLine and marks[line - 1] + shifts[line - 1] >= ends[line - 1]:
                had_blank_lines = True
            if line < endLine and marks[line] + shifts[line] >= ends[line]:
                had_blank_lines = True
                line += 1
                state.line = line


def parser(max_nesting: int) -> MarkdownIt:
    """A parser of which only the blocks are used."""
    md = MarkdownIt("commonmark", {"maxNesting": max_nesting})
    md.block = Parser()
    return md


def parse(source: str, md: MarkdownIt, document: Document) -> list[Token]:
    """The blocks of a document.

    Raises:
        TooDeepError: It is nested too deeply for the library, which drops what is deeper.
        TooMuchEffortError: It would take too much time or memory.
    """
    state = State(source, md, document)
    md.block.tokenize(state, 0, state.lineMax)
    return state.tokens


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parses the block that begins at a line; if `silent`, only whether one begins there that ends a paragraph."""
    assert isinstance(state, State)
    state.tries += 1
    if (state.tries > 10_000 and state.tries > TRIES_PER_LINE * len(state.bMarks)) or len(state.tokens) > MAX_TOKENS:
        raise TooMuchEffortError
    at = state.bMarks[start] + state.tShift[start]
    if silent or at >= state.eMarks[start]:
        return silent and at < state.eMarks[start] and _ends(state, start, end)
    if state.has_code and state.sCount[start] - state.blkIndent >= 4:
        return code(state, start, end, False)
    if _may_be_table(state, start) and tables.table(state, start, False, end, _checked_ends):
        return True
    for rule in _RULES.get(state.src[at], ()):
        if rule(state, start, end, False):
            return True
    is_definition = _may_be_definition(state, start, end) and _DEFINITIONS(state, start, end, False)
    return is_definition or paragraphs.paragraph(state, start, end, _ends)


def _ends(state: StateBlock, start: int, end: int) -> bool:
    """Whether a line begins a block that ends a paragraph, or an item if the parser is between items."""
    character = state.src[state.bMarks[start] + state.tShift[start]]
    rules = _ENDING_ITEMS if state.parentType == "list" else _ENDING
    if state.is_code_block(start):
        return False
    for rule in rules.get(character, ()):
        if rule(state, start, end, True):
            return True
    return (
        state.parentType == "paragraph"
        and _may_be_table(state, start)
        and tables.table(state, start, True, end, _checked_ends)
    )


def _checked_ends(state: StateBlock, start: int, end: int) -> bool:
    """The same, with the check of the work done so far."""
    return _block(state, start, end, True)


def _may_be_table(state: StateBlock, start: int) -> bool:
    """Whether the next line may be the one under the header of a table."""
    at = state.bMarks[start + 1] + state.tShift[start + 1]
    return at < state.eMarks[start + 1] and state.src[at] in "|:-" and "|" in state.src[state.bMarks[start] : at]


def _may_be_definition(state: StateBlock, start: int, end: int) -> bool:
    line = start + 1
    if line < end and state.isEmpty(line):
        line += 1
    return line < end and state.src.startswith((":", "~"), state.bMarks[line] + state.tShift[line])


def _rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A thematic break, which is not text."""
    at = state.bMarks[start] + state.tShift[start]
    if state.src[at + 2 : at + 3].isalnum():
        return False
    characters = state.src[at : state.eMarks[start]].replace(" ", "").replace("\t", "")
    if len(characters) < 3 or characters.strip(characters[0]):
        return False
    if not silent:
        state.line = start + 1
    return True


def _html_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Comments and tags whose content is not Markdown. Other tags are parts of paragraphs.

    A comment that is never closed is text, so that it hides nothing.
    """
    at = state.bMarks[start] + state.tShift[start]
    src = state.src
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


def _definition_rule() -> Rule:
    md = MarkdownIt("zero").use(deflist_plugin)
    md.block.ruler.enableOnly(["deflist"])
    return md.block.ruler.getRules("")[0]


_DEFINITIONS = _definition_rule()
_RULES: dict[str, tuple[Rule, ...]] = {
    ">": (blockquote,),
    "#": (paragraphs.heading,),
    "-": (code_rules.snippets, _rule, list_block),
    "*": (_rule, list_block),
    "+": (list_block,),
    "_": (_rule,),
    **dict.fromkeys("0123456789", (list_block,)),
    "`": (fence,),
    "~": (fence,),
    "<": (_html_block, code_rules.tags),
    "[": (footnote_def,),
    ":": (containers.colons,),
    "/": (containers.slashes,),
    **dict.fromkeys("!?=", (containers.indented,)),
    "{": (code_rules.braces,),
    **dict.fromkeys("$\\", (code_rules.formulas,)),
    **dict.fromkeys("ie", (code_rules.modules,)),
}
_ENDING = {character: rules for character, rules in _RULES.items() if character not in "ie"} | {
    ":": (containers.colons, _DEFINITIONS),
    "~": (fence, _DEFINITIONS),
}
_ENDING_ITEMS = {
    character: tuple(rule for rule in rules if rule not in (list_block, paragraphs.heading, _html_block, footnote_def))
    for character, rules in _ENDING.items()
}
