"""Tables and numbers as the page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool) -> str:
    """A table with its caption; the first cell of each row is its head.

    Args:
        caption: What is in it.
        heads: Of the columns; none where all are empty.
        rows: Their cells.
        numbers: Whether all cells but the first are numbers.
    """
    kind = " class=number" if numbers else ""
    head = "".join(f"<th scope=col{kind if i else ''}>{escape(title)}</th>" for i, title in enumerate(heads))
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td{kind}>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="table"><table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table></div>'


def finite(value: Any) -> float | None:
    """A value of a record, where it is a number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(value: float | None) -> str:
    """A number of any size."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.{1 if abs(value) >= 100 else 3}f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.2g}"


def share(value: float | None) -> str:
    """A share as percent."""
    if value is None:
        return "not finite"
    return "<0.1%" if 0 < value < 0.001 else f"{value:.1%}".replace(".0%", "%")
