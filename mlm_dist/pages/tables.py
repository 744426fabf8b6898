"""HTML tables and sections of the page. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool) -> str:
    """A table; the first cell of each row is its header.

    Args:
        caption: The caption.
        heads: The column headers; all empty for no header row.
        rows: The cells.
        numbers: Whether all cells but the first hold numbers, which are aligned to the right.
    """
    kind = " class=number" if numbers else ""
    head = "".join(f"<th scope=col{kind if i else ''}>{escape(title)}</th>" for i, title in enumerate(heads))
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td{kind}>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="table"><table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table></div>'


def section(title: str, body: str) -> str:
    """A section with its heading; nothing if its body is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def paragraph(text: str) -> str:
    """A paragraph of secondary text; nothing if there is no text."""
    return f"<p class=soft>{escape(text)}</p>" if text else ""
