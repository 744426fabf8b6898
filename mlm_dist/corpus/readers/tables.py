"""Columns of Arrow tables: which are needed, and the records in a batch of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mlm_dist.corpus.readers.protocol import Document, Dropped, ReadSettings, record, too_large
from mlm_dist.corpus.readers.record_fields import TOKENS

MAX_ROWS, MAX_BYTES = 256, 16 << 20  # decoded at a time: the smaller of both, and at least one row


def columns(names: Iterable[str], settings: ReadSettings) -> list[str] | None:
    """The columns that are read; None if none of them holds text or token ids."""
    known = set(names)
    content = [_column(field, known) for field in (*settings.text, TOKENS)]
    if not any(content):
        return None
    split, group = (_column(field, known) if field else None for field in (settings.split, settings.group))
    # A record keeps its id if it names its side of the split.
    others = (split, group, "id" if split is not None and "id" in known else None)
    return list(dict.fromkeys(name for name in (*content, *others) if name is not None))


def no_text(settings: ReadSettings) -> str:
    """The reason for a file without a column of text."""
    return f"no {', '.join(map(repr, settings.text))} column"


def fields(schema: Any) -> dict[str, Any]:
    """An object with all fields of an Arrow schema."""
    import pyarrow as pa

    def inner(kind: Any) -> Any:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        return {one.name: inner(one.type) for one in kind} if pa.types.is_struct(kind) else None

    return {one.name: inner(one.type) for one in schema}


def documents(batch: Any, settings: ReadSettings, prefix: str, first: int) -> Iterator[Document | Dropped]:
    """The documents in a batch of rows.

    Args:
        batch: A record batch that has the needed columns only.
        settings: How files are read.
        prefix: Begins the ids, before the number of the row.
        first: The number of the first row.
    """
    names = batch.schema.names
    cells = [batch.column(i) for i in range(len(names))]
    texts = [cells[i] for i, name in enumerate(names) if name in settings.text]
    for i in range(batch.num_rows):
        id_ = f"{prefix}{first + i}"
        # The size is checked before a cell becomes a Python string.
        if any(_size(column[i]) > settings.max_bytes for column in texts):
            yield too_large(id_, settings.max_bytes)
        else:
            yield record(id_, {name: column[i].as_py() for name, column in zip(names, cells, strict=True)}, settings)


def pieces(batch: Any) -> Iterator[tuple[int, Any]]:
    """A batch in pieces that are small enough to be decoded, each with the number of its first row."""
    step = min(max(MAX_BYTES * batch.num_rows // max(batch.nbytes, 1), 1), MAX_ROWS)
    for start in range(0, batch.num_rows, step):
        yield start, batch.slice(start, step)


def _column(field: str, names: set[str]) -> str | None:
    """The column that holds a field: of its name, or the longest of its first parts."""
    parts = field.split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in names), None)


def _size(cell: Any) -> int:
    """The bytes of a text; 0 for anything else."""
    buffer = cell.as_buffer() if hasattr(cell, "as_buffer") else None
    return 0 if buffer is None else int(buffer.size)
