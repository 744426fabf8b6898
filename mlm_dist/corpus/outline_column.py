"""Outlines of documents as a column of a parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mlm_dist.corpus.outline import Heading, Link, Outline, Span
from mlm_dist.corpus.plain_text import without_surrogates

LEAVES = (
    *("outline.title.start", "outline.title.stop"),
    *(f"outline.headings.list.element.{name}" for name in Heading._fields),
    *(f"outline.links.list.element.{name}" for name in Link._fields),
)
"""The parquet columns of a column `outline`."""


def kind() -> Any:
    """The Arrow type of the column."""
    import pyarrow as pa

    offsets = {"start": pa.uint32(), "stop": pa.uint32()}
    return pa.struct(
        {
            "title": pa.struct(offsets),
            "headings": pa.list_(pa.struct(offsets | {"level": pa.uint16()})),
            "links": pa.list_(pa.struct(offsets | {"target": pa.string()})),
        }
    )


def encode(outlines: Iterable[Outline]) -> list[Any]:
    """The values of the column; null for an outline without anything."""
    return [_value(one) if one.title or one.headings or one.links else None for one in outlines]


def decode(column: Any) -> Iterator[Outline]:
    """The outlines in a column."""
    for value in column.to_pylist():
        if value is None:
            yield Outline()
            continue
        title = value["title"]
        yield Outline(
            None if title is None else Span(**title),
            tuple(Heading(**one) for one in value["headings"]),
            tuple(Link(**one) for one in value["links"]),
        )


def _value(outline: Outline) -> tuple[Any, ...]:
    # As in texts, a target has no lone surrogates.
    links = [
        one if one.target.isascii() else one._replace(target=without_surrogates(one.target)) for one in outline.links
    ]
    return outline.title, list(outline.headings), links
