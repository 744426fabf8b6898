"""Which rows each validation of a run was on: only losses on the same rows can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ROWS = ("validation_rows", "validation_rows_total", "validation_sources")  # of a `start` line


def rows_of(start: Mapping[str, Any]) -> tuple[Any, ...]:
    """The validation rows of a `start` line: how many of how many, of which sources. Equal for the same rows."""
    return tuple(tuple(value) if isinstance(value := start.get(name), list) else value for name in ROWS)


def validated_rows(lines: Iterable[Mapping[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """{step: rows} of the `validation` lines of metrics.jsonl; the newest `start` line before each names them."""
    rows: dict[int, tuple[Any, ...]] = {}
    start: Mapping[str, Any] = {}
    for line in lines:
        if line["kind"] == "start":
            start = line
        elif line["kind"] == "validation":
            rows[line["step"]] = rows_of(start)
    return rows
