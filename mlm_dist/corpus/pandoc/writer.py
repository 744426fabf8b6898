"""The document tree of pandoc, written block by block as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.pandoc import raw
from mlm_dist.corpus.plain_text import Blocks, one_line, with_title

MAX_DEPTH = 50  # of nested blocks, and of nested markup within a paragraph

_FIELDS = ("subtitle", "author", "date", "abstract")  # shown below the title
_ADMONITIONS = frozenset(("attention", "caution", "danger", "hint", "important", "note", "tip", "warning"))
_BOXES = ("\N{BALLOT BOX}", "\N{BALLOT BOX WITH X}")  # of tasks
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT")  # of a book, which is not shown
_BREAK = "\1"  # a line break that stays
_MULTILINE = frozenset(("CodeBlock", "Table"))


class TooDeepError(Exception):
    """The document is nested too deeply."""


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
    return Cleaned(with_title(title, writer.text()), title)


class _Writer:
    """Writes blocks."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._depth = 0
        self._notes: list[str] = []  # the footnotes so far

    def text(self) -> str:
        return self._blocks.text()

    def write(self, blocks: Iterable[dict[str, Any]]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError("nested too deeply")
        for block in blocks:
            if handle := self._BLOCKS.get(block["t"]):
                handle(self, block.get("c"))
        self._depth -= 1

    def end(self) -> None:
        """Write the footnotes."""
        with self._blocks.list():
            for i, text in enumerate(self._notes, 1):
                with self._blocks.item(f"[{i}]"):
                    self._blocks.add(text)

    def value(self, value: Any) -> str:
        """A value of the metadata as text."""
        kind, content = (value["t"], value.get("c")) if value else ("", None)
        if kind == "MetaInlines":
            return self._text(content)
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
        outer, self._blocks = self._blocks, Blocks()
        self.write(blocks)
        text, self._blocks = self._blocks.text(), outer
        return text

    def _paragraph(self, inlines: Any) -> None:
        lines = map(one_line, self._text(inlines).split(_BREAK))
        self._blocks.add("\n".join(line for line in lines if line))

    def _heading(self, content: Any) -> None:
        self._blocks.add(one_line(self._text(content[2])))

    def _lines(self, lines: Any) -> None:
        self._blocks.add("\n".join(one_line(self._text(line)) for line in lines))

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
            self._blocks.row([one_line(self._within(cell)) for cell in cells])

    def _text(self, inlines: Any) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError("nested too deeply")
        parts: list[str] = []
        for inline in inlines:
            kind, content = inline["t"], inline.get("c")
            if kind == "Superscript" and parts and parts[-1][-1:].isalnum():
                parts.append("^")  # 2^31 is not 231
            parts.append(self._INLINES.get(kind, _nothing)(self, content))
        self._depth -= 1
        return "".join(parts)

    def _note(self, blocks: Any) -> str:
        self._notes.append("")
        number = len(self._notes)
        self._notes[number - 1] = one_line(self._within(blocks))
        return f"[{number}]"

    def _quoted(self, content: Any) -> str:
        text = self._text(content[1])
        return f"\u2018{text}\u2019" if content[0]["t"] == "SingleQuote" else f"\u201c{text}\u201d"

    def _math(self, content: Any) -> str:
        if content[1].startswith("\\begin{"):
            return str(content[1])
        return f"$${content[1]}$$" if content[0]["t"] == "DisplayMath" else f"${content[1]}$"

    def _second(self, content: Any) -> str:
        return self._text(content[1])

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
    _INLINES: ClassVar[dict[str, Callable[[_Writer, Any], str]]] = {
        "Cite": _second,
        "Code": lambda _, content: content[1],
        "Emph": _text,
        "Image": _second,
        "LineBreak": lambda _, content: _BREAK,
        "Link": _second,
        "Math": _math,
        "Note": _note,
        "Quoted": _quoted,
        "RawInline": lambda _, content: raw.text(*content),
        "SmallCaps": _text,
        "SoftBreak": lambda _, content: "\n",
        "Space": lambda _, content: " ",
        "Span": _second,
        "Str": lambda _, content: content,
        "Strikeout": _text,
        "Strong": _text,
        "Subscript": _text,
        "Superscript": _text,
        "Underline": _text,
    }


def _nothing(writer: _Writer, content: Any) -> str:
    return ""
