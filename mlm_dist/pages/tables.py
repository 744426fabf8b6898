"""Tables of the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header.

    Args:
        caption: The caption.
        heads: The column headers; all empty for no header row.
        rows: The cells.
        numbers: Whether all cells but the first hold numbers, which are aligned to the right.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool
