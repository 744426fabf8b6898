"""The document tree of pandoc, written block by block as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.marks import Marked, as_heading, joined
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.pandoc import raw
from mlm_dist.corpus.pandoc.inline_text import InlineText
from mlm_dist.corpus.plain_text import Blocks, one_line, with_title

_FIELDS = ("subtitle", "author", "date", "abstract")  # shown below the title
_ADMONITIONS = frozenset(("attention", "caution", "danger", "hint", "important", "note", "tip", "warning"))
_BOXES = ("\N{BALLOT BOX}", "\N{BALLOT BOX WITH X}")  # of tasks
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT")  # of a book, which is not shown
_MULTILINE = frozenset(("CodeBlock", "Table"))


def written(tree: dict[str, Any]) -> Cleaned:
    """A document.

    Raises:
        TooDeepError: It is nested too deeply.
    """
    writer = _Writer()
    meta = tree.get("meta", {})
    title = one_line(writer.value(meta.get("title"))) or None
    for name in _FIELDS:
        writer.field(meta.get(name))
    writer.write(tree["blocks"])
    writer.end()
    body = writer.marked()
    text = with_title(title, body.text)
    return Cleaned(text, title, outline=Outline.of(body, text, title))


class _Writer:
    """Writes blocks."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._inline = InlineText(self._within)

    def marked(self) -> Marked:
        return self._blocks.marked()

    def write(self, blocks: Iterable[dict[str, Any]]) -> None:
        self._inline.enter()
        for block in blocks:
            if handle := self._BLOCKS.get(block["t"]):
                handle(self, block.get("c"))
        self._inline.leave()

    def end(self) -> None:
        """Write the footnotes."""
        with self._blocks.list():
            for i, text in enumerate(self._inline.notes, 1):
                with self._blocks.item(f"[{i}]"):
                    self._blocks.add(text)

    def value(self, value: Any) -> str:
        """A value of the metadata as text."""
        kind, content = (value["t"], value.get("c")) if value else ("", None)
        if kind == "MetaInlines":
            return self._inline.text(content)
        if kind == "MetaString":
            return str(content)
        if kind == "MetaBlocks":
            return self._within(content)
        return ", ".join(filter(None, map(self.value, content or []))) if kind == "MetaList" else ""

    def field(self, value: Any) -> None:
        if value and value["t"] == "MetaBlocks":
            self.write(value["c"])
        else:
            text = one_line(self.value(value))
            self._blocks.add("" if _TIMESTAMP.match(text) else text)

    def _within(self, blocks: Any) -> str:
        """Blocks as text of their own."""
        return self._apart(blocks).text()

    def _apart(self, blocks: Any) -> Blocks:
        """Blocks that are not added to the document here."""
        outer, self._blocks = self._blocks, Blocks()
        self.write(blocks)
        found, self._blocks = self._blocks, outer
        return found

    def _add(self, block: Marked) -> None:
        self._blocks.add(block.text, marks=block.marks)

    def _paragraph(self, inlines: Any) -> None:
        self._add(self._inline.lines(inlines))

    def _heading(self, content: Any) -> None:
        level = max(content[0], 1)  # a part of a book in AsciiDoc has level 0
        self._add(as_heading(self._inline.line(content[2]), level))

    def _lines(self, lines: Any) -> None:
        self._add(joined("\n", map(self._inline.line, lines)))

    def _code(self, content: Any) -> None:
        (_, _, attributes), text = content
        self._blocks.add(one_line(dict(attributes).get("caption", "")))
        self._blocks.add(text.strip("\n"))

    def _quote(self, blocks: Any) -> None:
        self.write(blocks)

    def _div(self, content: Any) -> None:
        (_, classes, attributes), blocks = content
        self._blocks.add(one_line(dict(attributes).get("title", "")))
        if (
            blocks
            and not _ADMONITIONS.isdisjoint(classes)
            and blocks[0]["t"] == "Div"
            and "title" in blocks[0]["c"][0][1]
        ):
            title = one_line(self._within(blocks[0]["c"][1]))
            self._blocks.add(f"{title}:" if title.lower() in _ADMONITIONS else title)
            blocks = blocks[1:]
        self.write(blocks)

    def _raw(self, content: Any) -> None:
        self._blocks.add(raw.text(*content))

    def _bullets(self, items: Any) -> None:
        with self._blocks.list():
            for item in items:
                first = item[0]["c"] if item and item[0]["t"] in ("Para", "Plain") else []
                if first and first[0].get("c") in _BOXES:
                    del first[0]
                with self._blocks.item("-"):
                    self.write(item)

    def _numbers(self, content: Any) -> None:
        (start, _, _), items = content
        with self._blocks.list():
            for i, item in enumerate(items, start):
                with self._blocks.item(f"{i}."):
                    self.write(item)

    def _definitions(self, items: Any) -> None:
        for term, definitions in items:
            self._paragraph(term)
            for definition in definitions:
                with self._blocks.definition():
                    self.write(definition)

    def _figure(self, content: Any) -> None:
        _, (_, caption), blocks = content
        self.write(blocks)
        if caption and self._within(caption).strip() != self._within(blocks).strip():
            self.write(caption)

    def _table(self, content: Any) -> None:
        _, (_, caption), _, head, bodies, foot = content
        self.write(caption)
        rows = [*head[1], *(row for body in bodies for part in body[2:] for row in part), *foot[1]]
        with self._blocks.table():
            for _, cells in rows:
                self._row([cell[4] for cell in cells])

    def _row(self, cells: list[Any]) -> None:
        if any(block["t"] in _MULTILINE for cell in cells for block in cell):
            for cell in cells:
                self.write(cell)
        else:
            self._blocks.row([self._apart(cell).line() for cell in cells])

    _BLOCKS: ClassVar[dict[str, Callable[[_Writer, Any], None]]] = {
        "BlockQuote": _quote,
        "BulletList": _bullets,
        "CodeBlock": _code,
        "DefinitionList": _definitions,
        "Div": _div,
        "Figure": _figure,
        "Header": _heading,
        "LineBlock": _lines,
        "OrderedList": _numbers,
        "Para": _paragraph,
        "Plain": _paragraph,
        "RawBlock": _raw,
        "Table": _table,
    }
