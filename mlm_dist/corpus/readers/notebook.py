"""Jupyter notebooks."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.protocol import Document, DocumentReader, Dropped, ReadSettings

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_TICKS = re.compile(r"`{3,}")
_FRONT_MATTER = re.compile(r"---[ \t]*\n.*\n(?:---|\.\.\.)[ \t]*", re.DOTALL)
_VERBATIM = re.compile(r"<(/?)(script|style|pre|textarea)\b", re.IGNORECASE)


class NotebookReader(DocumentReader):
    """Reads the cells of a notebook as Markdown, with code between fences; outputs and attachments are not read."""

    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES
    markups: ClassVar[tuple[str, ...]] = ("markdown",)

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """See `DocumentReader`."""
        text, encoding = text_encoding.decode(data, settings.encoding)
        try:
            cells = _cells(json.loads(text))
        except (ValueError, RecursionError):
            return Dropped(name, "not JSON")
        if cells is None:
            return Dropped(name, "not a notebook")
        parts = [_markdown(cell, is_first=i == 0) for i, cell in enumerate(cells)]
        return Document(name, "\n\n".join(part for part in parts if part), encoding, "markdown")


def _cells(notebook: Any) -> list[dict[str, Any]] | None:
    """The cells of a notebook, in worksheets before format 4; None if it is not one."""
    if not isinstance(notebook, dict):
        return None
    if isinstance(notebook.get("worksheets"), list):
        sheets = [sheet for sheet in notebook["worksheets"] if isinstance(sheet, dict)]
    else:
        sheets = [notebook]
    lists = [sheet["cells"] for sheet in sheets if isinstance(sheet.get("cells"), list)]
    if not lists and "worksheets" not in notebook:
        return None
    return [cell for cells in lists for cell in cells if isinstance(cell, dict)]


def _markdown(cell: dict[str, Any], *, is_first: bool) -> str:
    """A cell as Markdown that ends with the cell."""
    kind = cell.get("cell_type")
    source = cell.get("source", cell.get("input", ""))
    text = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    if not isinstance(text, str) or not text.strip():
        return ""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if kind == "heading":
        level = cell.get("level")
        marks = "#" * level if isinstance(level, int) and 1 <= level <= 6 else "#"
        return f"{marks} {' '.join(text.split())}"
    if kind == "markdown":
        return _closed(text)
    if kind == "raw" and is_first and _FRONT_MATTER.fullmatch(text.strip()):
        return text.strip()
    ticks = "`" * max(3, *(len(run) + 1 for run in _TICKS.findall(text)), 3)
    return f"{ticks}\n{text.strip(chr(10))}\n{ticks}"


def _closed(text: str) -> str:
    """Markdown in which no fence, comment or tag is left open, so that it has no effect on other cells."""
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if not found:
            continue
        if not fence:
            fence = "" if found[1][0] == "`" and "`" in found[2] else found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    if fence:
        return f"{text}\n{fence}"
    comment = text.rfind("<!--")
    if comment > text.rfind("-->"):
        text = f"{text[:comment]}\\{text[comment:]}"  # it is text, as in any document
    tags = _VERBATIM.findall(text)
    return f"{text}\n</{tags[-1][1]}>" if tags and not tags[-1][0] else text
