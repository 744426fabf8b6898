"""The blocks of a Markdown document, written one after the other as plain text."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token

from mlm_dist.corpus.markdown import block_rules, components, inline, myst, templates
from mlm_dist.corpus.markdown.pieces import Document
from mlm_dist.corpus.marks import Mark, Marked, as_heading, assembled, joined

MAX_NESTING = 100  # of quotes, or half as many lists; the library drops what is deeper
MAX_LINES = 1_000_000
MAX_MARKUP = 20_000  # characters of markup in a paragraph, far more than people write; more would take too long
TOO_DENSE = "markdown too dense, kept in part as is"

_TASK = re.compile(r"\[[ xX]\]\s")
_HTML = re.compile(r"<(!--|script|style|pre|textarea)", re.IGNORECASE)
_TEXTS = frozenset(("heading", "inline", "paragraph_open"))
_HTML_START = re.compile(r"<[^<>]*>")


@functools.cache
def _parser() -> MarkdownIt:
    return block_rules.parser(MAX_NESTING)


class Writer:
    """Writes the blocks that the parser finds."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._marks: list[tuple[int, Sequence[Mark]]] = []  # of the parts with an index
        self.notes: set[str] = set()
        self._document = Document()
        self._depth = 0  # of nested directives
        self._lists = 0  # nested lists
        self._marker = ""  # of an item whose text follows
        self._apart = False  # whether a blank line comes before it even so
        self._cells: list[Marked] | None = None  # of the current row

    def marked(self) -> Marked:
        """The text written so far."""
        return assembled(self._parts, self._marks)

    def write(self, source: str) -> None:
        """Write a document, or the content of a directive.

        Raises:
            TooDeepError: It is nested too deeply.
            TooMuchEffortError: It would take too much time or memory.
        """
        if source.count("\n") > MAX_LINES:
            raise block_rules.TooMuchEffortError
        if not self._depth:
            self._document = Document(mdx=components.is_mdx(source), allowance=1_000_000 + 5 * len(source))
        tokens = block_rules.parse(source, _parser(), self._document)
        texts = [token.content for token in tokens if "<" in token.content and token.type in _TEXTS]
        self._document.components |= components.components(texts)
        for token in tokens:
            if handle := self._HANDLERS.get(token.type):
                handle(self, token)
        if self._document.allowance < 0:
            self.notes.add(TOO_DENSE)

    def _block(self, block: Marked, tight: bool = False) -> None:
        text, marks = block
        if not text.strip():
            return
        if self._parts:
            self._parts.append("\n" if tight and not self._apart else "\n\n")
        self._parts += self._marker, text
        if marks:
            self._marks.append((len(self._parts) - 1, marks))
        self._marker, self._apart = "", not tight

    def _plain(self, source: str) -> Marked:
        if len(source) > MAX_MARKUP and inline.is_dense(source, MAX_MARKUP):
            self.notes.add(TOO_DENSE)
            return Marked(source)
        return inline.plain(source, self._document)

    def _paragraph(self, token: Token) -> None:
        task = self._marker and _TASK.match(token.content)
        self._block(self._plain(token.content[task.end() :] if task else token.content), token.hidden)

    def _inline(self, token: Token) -> None:
        if self._cells is not None:
            text, marks = self._plain(token.content)
            self._cells.append(Marked(text.replace("\n", " "), marks))
        else:
            self._block(self._plain(token.content))

    def _heading(self, token: Token) -> None:
        self._block(as_heading(self._plain(token.content), len(token.markup)))

    def _code(self, token: Token) -> None:
        content, seen = token.content, ""
        if directive := myst.fence(token.info):
            name, argument = directive
            seen, content = myst.options(content)
            if myst.is_prose(name) and self._depth < MAX_NESTING // 10:
                self._block(self._plain(myst.heading(name, argument)))
                self._block(self._plain(seen))
                self._depth += 1
                self.write(content)
                self._depth -= 1
                return
            seen = " ".join(filter(None, (myst.heading(name, argument), seen)))
        if token.info[:1] == "{":
            caption, content = myst.chunk(token.info, content)
            seen = seen or caption
        elif token.info:
            seen = myst.title(token.info)
        self._block(self._plain(seen))
        self._end_item(token)
        if "{{#" in content or "8<-" in content:
            content = templates.INCLUDE.sub("", content)
        self._block(Marked(content.strip("\n")))

    def _formula(self, token: Token) -> None:
        self._end_item(token)
        self._block(Marked(token.content))

    def _html(self, token: Token) -> None:
        """A comment, or code between tags, and what follows on the last line."""
        html = token.content.lstrip()
        found = _HTML.match(html)
        name = found[1].lower() if found else ""
        content, *after = re.split("-->" if name == "!--" else rf"</{name}\s*>", html, maxsplit=1, flags=re.IGNORECASE)
        if name in ("pre", "textarea") or not after:
            self._block(Marked(components.code(_HTML_START.sub("", content, count=1), links=False).strip("\n")))
        for text in after:
            self._block(self._plain(text.strip()))

    def _list(self, token: Token) -> None:
        self._lists += token.nesting
        self._apart |= self._lists == (token.nesting > 0)  # the outermost begins or has ended

    def _item(self, token: Token) -> None:
        self._marker = self._marker or "  " * (self._lists - 1)
        self._marker += f"{token.info}{token.markup} " if token.info else "- "

    def _definition(self, token: Token) -> None:
        self._apart = False
        self._marker += ": "

    def _footnote(self, token: Token) -> None:
        self._marker += f"[^{token.meta['label']}]: "

    def _end_item(self, token: Token) -> None:
        """A number without text after it is text."""
        marker, self._marker = self._marker.strip(), ""
        if any(map(str.isalnum, marker)):
            self._block(Marked(marker), tight=True)

    def _table(self, token: Token) -> None:
        self._apart = True

    def _row(self, token: Token) -> None:
        self._cells = []

    def _end_row(self, token: Token) -> None:
        cells, self._cells = self._cells or [], None
        while cells and not cells[-1].text:
            cells.pop()
        self._block(joined(" | ", cells), tight=True)

    _HANDLERS: ClassVar[dict[str, Callable[[Writer, Token], None]]] = {
        "paragraph_open": _paragraph,
        "inline": _inline,
        "heading": _heading,
        "fence": _code,
        "formula": _formula,
        "code_block": _code,
        "html_block": _html,
        "bullet_list_open": _list,
        "bullet_list_close": _list,
        "ordered_list_open": _list,
        "ordered_list_close": _list,
        "list_item_open": _item,
        "list_item_close": _end_item,
        "footnote_reference_open": _footnote,
        "footnote_reference_close": _end_item,
        "dd_open": _definition,
        "dd_close": _end_item,
        "table_open": _table,
        "table_close": _table,
        "tr_open": _row,
        "tr_close": _end_row,
    }
