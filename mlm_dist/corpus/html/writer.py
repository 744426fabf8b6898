"""The elements of an HTML document, written one after the other as plain text."""

from __future__ import annotations

import contextlib
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from mlm_dist.corpus.html import elements
from mlm_dist.corpus.html.paragraph import BREAK, Paragraph
from mlm_dist.corpus.marks import Marked
from mlm_dist.corpus.plain_text import APART, Blocks, one_line

MAX_DEPTH = 150  # of elements; each takes some four frames of Python's stack
_CONTROL = str.maketrans({APART: "\ufffd", BREAK: " "})


class TooDeepError(Exception):
    """The document is nested too deeply."""


class Writer:
    """Writes a document.

    Args:
        html: The document.

    Raises:
        TooDeepError: It is nested too deeply.
    """

    def __init__(self, html: str) -> None:
        tree = LexborHTMLParser(html.translate(_CONTROL))
        self._blocks = Blocks()
        self._depth = 0
        self._paragraph = Paragraph()
        self._cells: list[Marked] | None = None  # of the current row, whose cells are one line each
        self._has_main = tree.css_first("main, article, [role=main]") is not None
        title = tree.css_first("head > title")
        self.title = (one_line(title.text()) or None) if title is not None else None
        if tree.body is not None:
            self._children(tree.body)
        self._flush()

    def marked(self) -> Marked:
        """The document."""
        return self._blocks.marked()

    def _children(self, node: Any) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError
        child = node.child
        while child is not None:
            tag = child.tag
            if tag == "-text":
                self._paragraph.parts.append(child.text_content or "")
            elif tag[0] != "-" and tag[0] != "_" and not self._is_hidden(child, tag):
                self._element(child, tag)
            child = child.next
        self._depth -= 1

    def _is_hidden(self, node: Any, tag: str) -> bool:
        if tag in elements.HIDDEN:
            return tag != "script" or not (node.attributes.get("type") or "").startswith("math/")
        if elements.is_hidden(node.attributes):
            return True
        if tag == "a":
            return elements.is_permalink(node)
        return self._has_main and tag in ("header", "footer") and elements.is_of_page(node)

    def _element(self, node: Any, tag: str) -> None:
        handle = getattr(self, f"_{tag}", None) if tag in elements.HANDLED else None
        if handle:
            handle(node)
        elif tag in elements.BLOCKS:
            self._flush()
            outer = self._paragraph.level
            self._paragraph.level = elements.LEVELS.get(tag, outer)
            self._children(node)
            self._flush()
            self._paragraph.level = outer
        elif tag in elements.INLINE:
            self._children(node)
        else:
            self._paragraph.parts.append(APART)
            self._children(node)
            self._paragraph.parts.append(APART)

    def _flush(self) -> None:
        """End the paragraph."""
        text, marks = self._paragraph.end()
        self._blocks.add(text, marks=marks)

    def _a(self, node: Any) -> None:
        target = node.attributes.get("href")
        if not target:
            self._children(node)
            return
        self._paragraph.open_link(target)
        self._children(node)
        self._paragraph.close_link()

    def _br(self, node: Any) -> None:
        self._paragraph.parts.append(BREAK)

    def _img(self, node: Any) -> None:
        if alt := node.attributes.get("alt"):
            self._paragraph.parts += APART, alt, APART

    def _q(self, node: Any) -> None:
        self._paragraph.parts.append("\N{LEFT DOUBLE QUOTATION MARK}")
        self._children(node)
        self._paragraph.parts.append("\N{RIGHT DOUBLE QUOTATION MARK}")

    def _sup(self, node: Any) -> None:
        if "".join(self._paragraph.parts[-1:])[-1:].isalnum():
            self._paragraph.parts.append("^")  # 2<sup>31</sup> is not 231
        self._children(node)

    def _script(self, node: Any) -> None:
        self._paragraph.parts += APART, node.text_content or node.text() or "", APART  # a formula

    def _math(self, node: Any) -> None:
        tex = node.css_first('annotation[encoding="application/x-tex"]')
        if tex is not None:
            self._paragraph.parts += APART, tex.text().strip(), APART
        else:
            for part in node.traverse(include_text=True):
                if part.tag == "-text":
                    self._paragraph.parts += (part.text_content or "").strip(), APART

    def _pre(self, node: Any) -> None:
        """Code to the letter."""
        self._flush()
        self._blocks.add("".join(self._code(node)).strip("\n"))

    def _code(self, node: Any) -> list[str]:
        """The text within code, without numbers of lines."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError
        parts: list[str] = []
        child = node.child
        while child is not None:
            if child.tag == "-text":
                parts.append(child.text_content or "")
            elif child.tag == "br":
                parts.append("\n")
            elif child.tag[0] not in "-_" and not elements.is_hidden(child.attributes):
                parts += self._code(child)
            child = child.next
        self._depth -= 1
        return parts

    _listing = _textarea = _xmp = _pre

    def _ul(self, node: Any) -> None:
        self._flush()
        with self._blocks.list():
            self._children(node)
            self._flush()

    _menu = _dir = _ul

    def _ol(self, node: Any) -> None:
        self._flush()
        number = elements.integer(node.attributes.get("start"), 1)
        with self._blocks.list():
            child = node.child
            while child is not None:
                if child.tag == "li":
                    number = elements.integer(child.attributes.get("value"), number)
                    self._item(child, f"{number}.")
                    number += 1
                elif child.tag[0] not in "-_":
                    self._element(child, child.tag)
                child = child.next
            self._flush()

    def _li(self, node: Any) -> None:
        self._item(node, "-")

    def _item(self, node: Any, marker: str) -> None:
        self._flush()
        with self._blocks.item(marker):
            self._children(node)
            self._flush()

    def _dd(self, node: Any) -> None:
        self._flush()
        with self._blocks.definition():
            self._children(node)
            self._flush()

    def _table(self, node: Any) -> None:
        self._flush()
        with contextlib.ExitStack() as stack:
            if self._cells is None:
                stack.enter_context(self._blocks.table())
            self._children(node)
            self._flush()

    def _tr(self, node: Any) -> None:
        self._flush()
        if self._cells is not None or node.css_first(elements.NOT_IN_ROW) is not None:
            self._children(node)
            self._flush()
            return
        self._cells = []
        self._children(node)
        cells, self._cells = self._cells, None
        self._flush()
        self._blocks.row(cells)

    def _td(self, node: Any) -> None:
        self._flush()
        if self._cells is None:
            self._children(node)
            self._flush()
            return
        outer, self._blocks = self._blocks, Blocks()
        self._children(node)
        self._flush()
        text, self._blocks = self._blocks.line(), outer
        self._cells.append(text)

    _th = _td
