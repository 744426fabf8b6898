"""From tokens to rows: windows of a document between special tokens, padded to one length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlm_dist.corpus.tokens import SpecialTokens


@dataclass(frozen=True)
class RowBlock:
    """Some rows.

    Args:
        input_ids: [num_rows, max_length], int32, padded at the end.
        lengths: [num_rows], int32, tokens of each row that are not padding.
        num_dropped: Tokens of the documents that are in no row.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    num_dropped: int


def window(ids: np.ndarray, lengths: np.ndarray, mode: str, max_length: int, special: SpecialTokens) -> RowBlock:
    """Cut documents into rows of `max_length`; a row never holds tokens of two documents.

    Args:
        ids: [num_tokens] tokens of all documents, one after the other.
        lengths: [num_documents] how many of them belong to each.
        mode: chunk (every token gets into a row) or truncate (one row a document).
        max_length: Tokens in a row, special tokens included.
        special: What stands before and after the tokens of a row.
    """
    start, end = len(special.prefix), len(special.suffix)
    room = max_length - start - end
    if mode == "truncate":
        kept = np.minimum(lengths, room)
        inside = _ranks(lengths) < np.repeat(kept, lengths)
        num_dropped = int(lengths.sum() - kept.sum())
        ids, lengths = ids[inside], kept
    else:
        num_dropped = 0
    num_windows = -(-lengths // room)  # a document without tokens gets no row
    content = np.full(int(num_windows.sum()), room, np.int64)
    has_rows = num_windows > 0
    last = np.cumsum(num_windows[has_rows]) - 1
    content[last] = lengths[has_rows] - (num_windows[has_rows] - 1) * room

    rows = np.full((len(content), max_length), special.pad, np.int32)
    rows[:, :start] = special.prefix
    # Windows follow each other as the tokens do, so filling in row-major order puts each token in its place.
    rows[:, start : start + room][np.arange(room) < content[:, None]] = ids
    each = np.arange(len(content))
    for i, token in enumerate(special.suffix):
        rows[each, start + content + i] = token
    return RowBlock(rows, (content + start + end).astype(np.int32), num_dropped)


def write(path: Path, block: RowBlock) -> None:
    """Write rows as an Arrow stream with the schema of a `datasets` table."""
    import pyarrow as pa

    schema = features(block.input_ids.shape[1]).arrow_schema
    flat = pa.array(np.ascontiguousarray(block.input_ids).reshape(-1))
    columns = [
        pa.FixedSizeListArray.from_arrays(flat, block.input_ids.shape[1]).cast(schema.field("input_ids").type),
        pa.array(block.lengths),
    ]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(pa.Table.from_arrays(columns, schema=schema))


def features(max_length: int):  # type: ignore[no-untyped-def]  # datasets is imported late, it costs a second
    """The columns of a table of rows."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value("int32"), length=max_length), "length": Value("int32")})


def _ranks(lengths: np.ndarray) -> np.ndarray:
    """For each token its place in its own document: [0, 1, 2, 0, 1, ...]."""
    starts = np.cumsum(lengths) - lengths
    ranks: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return ranks
