"""The nodes of a reStructuredText document, written one after the other as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from docutils import nodes

from mlm_dist.corpus.marks import Marked, as_heading, joined, without
from mlm_dist.corpus.plain_text import Blocks, one_line
from mlm_dist.corpus.rst.inline_text import InlineText

UNREAD = "rst with errors, kept in part as is"
_METADATA = frozenset(("nocomments", "no-search", "nosearch", "orphan", "tocdepth"))  # settings of Sphinx
_RULE = re.compile(r"[+\-=|\s]*|([^\w\s])\1{3,}\s*")


class Writer:
    """Writes a document.

    Args:
        document: The document tree of docutils.
    """

    def __init__(self, document: nodes.document) -> None:
        self.notes: set[str] = set()
        self._blocks = Blocks()
        self._inline = InlineText(document, self.notes)
        fields = document[0] if len(document) else None
        self._metadata = fields if isinstance(fields, nodes.field_list) else None
        self._write(document)

    def marked(self) -> Marked:
        """The document."""
        return without(self._blocks.marked(), "\0")

    def _add(self, block: Marked) -> None:
        self._blocks.add(block.text, marks=block.marks)

    def _write(self, node: Any) -> None:
        handle = self._HANDLERS.get(type(node).__name__)
        if handle:
            handle(self, node)
        elif isinstance(node, nodes.Text | nodes.Inline):
            self._add(self._inline.line(node))
        else:
            self._children(node)

    def _children(self, node: Any) -> None:
        for child in node.children:
            self._write(child)

    def _nothing(self, node: Any) -> None:
        pass

    def _paragraph(self, node: Any) -> None:
        self._add(self._inline.line(node))

    def _rubric(self, node: Any) -> None:
        """A heading, or the title of a directive."""
        line = self._inline.line(node)
        self._add(as_heading(line, node["level"]) if "level" in node else line)

    def _code(self, node: Any) -> None:
        self._blocks.add(self._inline.text(node).strip("\n"))

    def _error(self, node: Any) -> None:
        """A block that docutils cannot parse is kept without rules; warnings are about blocks that it could."""
        for child in node.children:
            if node["level"] >= 3 and isinstance(child, nodes.literal_block):
                source = child.astext()
                if not source.startswith(".. |"):
                    self.notes.add(UNREAD)
                    self._blocks.add("\n".join(line for line in source.split("\n") if not _RULE.fullmatch(line)))

    def _bullets(self, node: Any) -> None:
        with self._blocks.list():
            for item in node.children:
                with self._blocks.item("-"):
                    self._children(item)

    def _numbers(self, node: Any) -> None:
        with self._blocks.list():
            for i, item in enumerate(node.children, node.get("start", 1)):
                number = _number(i, node.get("enumtype", "arabic"))
                with self._blocks.item(f"{node.get('prefix', '')}{number}{node.get('suffix', '.')}"):
                    self._children(item)

    def _definition_item(self, node: Any) -> None:
        terms = [child for child in node.children if isinstance(child, nodes.term | nodes.classifier)]
        self._add(joined(" : ", [self._inline.line(term) for term in terms]))
        for child in node.children:
            if child not in terms:
                self._write(child)

    def _definition(self, node: Any) -> None:
        with self._blocks.definition():
            self._children(node)

    def _field(self, node: Any) -> None:
        name = self._inline.line(node[0]).text
        if node.parent is not self._metadata or name.lower() not in _METADATA:
            with self._blocks.item(f"{name}:"):
                self._children(node[1])

    def _fields(self, node: Any) -> None:
        with self._blocks.list():
            self._children(node)

    def _option_item(self, node: Any) -> None:
        self._blocks.add(", ".join(one_line(option.astext()) for option in node[0].children))
        self._definition(node[1])

    def _lines(self, node: Any) -> None:
        self._add(joined("\n", self._line_block(node)))

    def _line_block(self, node: Any) -> list[Marked]:
        lines: list[Marked] = []
        for child in node.children:
            lines += self._line_block(child) if isinstance(child, nodes.line_block) else [self._inline.line(child)]
        return lines

    def _attribution(self, node: Any) -> None:
        self._add(joined(" ", [Marked("\N{EM DASH}"), self._inline.line(node)]))

    def _footnote(self, node: Any) -> None:
        label = node[0].astext() if len(node) and isinstance(node[0], nodes.label) else ""
        with self._blocks.list(), self._blocks.item(f"[{label}]"):
            for child in node.children:
                if not isinstance(child, nodes.label):
                    self._write(child)

    def _table(self, node: Any) -> None:
        for child in node.children:
            if isinstance(child, nodes.title | nodes.caption):
                self._paragraph(child)
        rows = [row for group in node.children for part in group.children for row in part.children]
        with self._blocks.table():
            for row in rows:
                if isinstance(row, nodes.row):
                    self._row(row)

    def _row(self, row: Any) -> None:
        blocks = (nodes.literal_block, nodes.doctest_block, nodes.table)
        if any(True for kind in blocks for _ in row.findall(kind)):
            for cell in row.children:
                self._children(cell)
            return
        cells = []
        for cell in row.children:
            outer, self._blocks = self._blocks, Blocks()
            self._children(cell)
            cells.append(self._blocks.line())
            self._blocks = outer
        self._blocks.row(cells)

    _HANDLERS: ClassVar[dict[str, Callable[[Writer, Any], None]]] = {
        "attribution": _attribution,
        "bullet_list": _bullets,
        "caption": _paragraph,
        "citation": _footnote,
        "comment": _nothing,
        "definition": _definition,
        "definition_list_item": _definition_item,
        "doctest_block": _code,
        "enumerated_list": _numbers,
        "field": _field,
        "field_list": _fields,
        "footnote": _footnote,
        "image": _paragraph,
        "line_block": _lines,
        "literal_block": _code,
        "option_list_item": _option_item,
        "paragraph": _paragraph,
        "pending": _nothing,
        "rubric": _rubric,
        "substitution_definition": _nothing,
        "system_message": _error,
        "table": _table,
        "target": _nothing,
        "transition": _nothing,
    }


def _number(value: int, kind: str) -> str:
    """A number of a list, as docutils names its kinds."""
    if kind in ("loweralpha", "upperalpha") and 1 <= value <= 26:
        text = chr(ord("a") + value - 1)
    elif kind in ("lowerroman", "upperroman") and 1 <= value < 4000:
        text = ""
        signs = ["m", "cm", "d", "cd", "c", "xc", "l", "xl", "x", "ix", "v", "iv", "i"]
        for sign, size in zip(signs, (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), strict=True):
            text += sign * (value // size)
            value %= size
    else:
        return str(value)
    return text.upper() if kind.startswith("upper") else text
