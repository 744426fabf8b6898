"""Counts of rows: what a run needs to know of all rows, so that it does not read them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RowCounts:
    """Counts of some rows.

    Args:
        tokens: Tokens that are not padding, special tokens included.
        longest: Tokens of the longest chunk.
        per_row: {number of chunks: rows with so many}.
    """

    tokens: int = 0
    longest: int = 0
    per_row: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: np.ndarray, num_chunks: np.ndarray) -> RowCounts:
        """The counts of rows.

        Args:
            lengths: [chunks] tokens of each chunk.
            num_chunks: [rows] chunks in each row.
        """
        found, counts = np.unique(num_chunks, return_counts=True)
        per_row = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return cls(int(lengths.sum(dtype=np.int64)), int(lengths.max(initial=0)), per_row)

    def __add__(self, other: RowCounts) -> RowCounts:
        per_row = Counter(self.per_row)
        per_row.update(other.per_row)
        return RowCounts(self.tokens + other.tokens, max(self.longest, other.longest), per_row)

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.per_row.values())

    @cached_property
    def chunks(self) -> int:
        """Number of chunks."""
        return sum(number * rows for number, rows in self.per_row.items())

    def to_json(self) -> dict[str, Any]:
        """What a manifest says of the rows."""
        per_row = {str(number): rows for number, rows in sorted(self.per_row.items())}
        return {
            "tokens": self.tokens,
            "chunks": self.chunks,
            "longest_chunk": self.longest,
            "rows_by_chunks": per_row,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowCounts:
        """The inverse of `to_json`."""
        per_row = {int(number): int(rows) for number, rows in value["rows_by_chunks"].items()}
        return cls(int(value["tokens"]), int(value["longest_chunk"]), per_row)
