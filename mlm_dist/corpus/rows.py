"""From tokens to rows: chunks of documents between special tokens, one or several of them in a row."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.files import write_whole


@dataclass(frozen=True)
class RowBlock:
    """Some rows.

    Args:
        input_ids: [num_rows, max_length], int32, padded at the end.
        lengths: [num_chunks], int32, tokens of each window with its special tokens, row after row.
        num_chunks: [num_rows], int32, how many chunks each row holds.
        num_dropped: Tokens of the documents that are in no row.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    num_chunks: np.ndarray
    num_dropped: int

    def figures(self, num_tokens: int) -> dict[str, int]:
        """Rows, tokens kept and dropped of the `num_tokens` of the documents, and places without a token."""
        return {
            "rows": len(self.num_chunks),
            "kept": num_tokens - self.num_dropped,
            "dropped": self.num_dropped,
            "padded": int(self.input_ids.size - self.lengths.sum()),
        }


def window(ids: np.ndarray, lengths: np.ndarray, mode: str, max_length: int, special: SpecialTokens) -> RowBlock:
    """Cut documents into chunks of at most `max_length` tokens, and put these into rows.

    All chunks of a document but its last are full. The chunks of a row stand in the order of the documents, and rows
    in the order of their first chunks.

    Args:
        ids: [num_tokens] tokens of all documents, one after the other.
        lengths: [num_documents] how many of them belong to each.
        mode: truncate (the first window of each document), chunk (all of them, one a row) or pack (all of them, several
            a row where they fit).
        max_length: Tokens in a row, special tokens included.
        special: What stands before and after the tokens of a window.
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
    per_document = -(-lengths // room)  # a document without tokens gets no window
    content = np.full(int(per_document.sum()), room, np.int64)
    has_windows = per_document > 0
    last = np.cumsum(per_document[has_windows]) - 1
    content[last] = lengths[has_windows] - (per_document[has_windows] - 1) * room

    sizes = content + start + end
    row = best_fit(sizes, max_length) if mode == "pack" else np.arange(len(sizes))
    num_chunks = np.bincount(row)
    order = np.argsort(row, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]  # tokens of all chunks before each
    before_row = before[np.cumsum(num_chunks) - num_chunks]
    begin = np.empty_like(sizes)  # of each window, in the flattened rows
    begin[order] = row[order] * max_length + before - before_row[row[order]]

    rows = np.full((len(num_chunks), max_length), special.pad, np.int32)
    flat = rows.reshape(-1)
    flat[np.repeat(begin + start, content) + _ranks(content)] = ids
    for i, token in enumerate(special.prefix):
        flat[begin + i] = token
    for i, token in enumerate(special.suffix):
        flat[begin + start + content + i] = token
    return RowBlock(rows, sizes[order].astype(np.int32), num_chunks.astype(np.int32), num_dropped)


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Pack by best fit, largest first (Johnson, 1974): each into the fullest row that still has room for it.

    Args:
        sizes: [n] integers from 1 to capacity.
        capacity: What a row holds.

    Returns:
        [n] the row of each; rows are numbered in the order of the first they hold.
    """
    home = np.arange(len(sizes))  # a row goes by the name of the window that opened it
    by_room: list[list[int]] = [[] for _ in range(capacity)]  # rows by the room left in them
    available = 0  # a bit for each room that some row has left
    largest_first = np.argsort(-sizes, kind="stable")[np.count_nonzero(sizes == capacity) :]
    for i, size in zip(largest_first.tolist(), sizes[largest_first].tolist(), strict=True):
        fitting = available >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            opened = by_room[room].pop()
            if not by_room[room]:
                available ^= 1 << room
        else:
            room, opened = capacity, i
        home[i] = opened
        by_room[room - size].append(opened)
        available |= 1 << (room - size)
    _, first, row = np.unique(home, return_index=True, return_inverse=True)
    numbered: np.ndarray = np.argsort(np.argsort(first))[row]
    return numbered


def write(path: Path, max_length: int, blocks: Iterable[RowBlock]) -> None:
    """Write rows as an Arrow stream with the schema of a `datasets` table."""
    import pyarrow as pa

    schema = features(max_length).arrow_schema

    def fill(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            for block in blocks:
                flat = pa.array(np.ascontiguousarray(block.input_ids).reshape(-1))
                ends = np.cumsum(block.num_chunks, dtype=np.int32)
                columns = [
                    pa.FixedSizeListArray.from_arrays(flat, max_length).cast(schema.field("input_ids").type),
                    pa.ListArray.from_arrays(np.insert(ends, 0, 0), block.lengths).cast(schema.field("lengths").type),
                ]
                stream.write_table(pa.Table.from_arrays(columns, schema=schema))

    write_whole(path, fill, durable=False)


def read(path: Path, max_length: int) -> RowTable:
    """The rows of a file that `write` wrote."""
    import pyarrow as pa

    return RowTable(pa.ipc.open_stream(pa.memory_map(str(path))).read_all(), max_length)


def features(max_length: int):  # type: ignore[no-untyped-def]  # datasets is imported late, it costs a second
    """The columns of a table of rows: input_ids, padded at the end, and the lengths of each row's chunks."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value("int32"), length=max_length), "lengths": Sequence(Value("int32"))})


class RowTable:
    """The rows of one split; their tokens stay on the disk, memory-mapped.

    Args:
        table: An Arrow table with the columns of `features`.
        max_length: Tokens in a row.
        words: Where words begin in the rows, part by part, as `words.read` gives it; empty where it is not known.
    """

    def __init__(self, table: Any, max_length: int, words: Sequence[np.ndarray] = ()) -> None:
        chunks = [chunk for chunk in table.column("input_ids").chunks if len(chunk)]
        # Each chunk is a view on the mapped file: [rows of the chunk, max_length], nothing is copied.
        self._tokens = _Pieces([chunk.flatten().to_numpy().reshape(-1, max_length) for chunk in chunks])
        self._words = _Pieces(words)
        lengths = table.column("lengths").combine_chunks()
        self._lengths: np.ndarray = lengths.flatten().to_numpy()
        self._ends: np.ndarray = np.cumsum(lengths.value_lengths().to_numpy(), dtype=np.int64)
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self._tokens)

    def followed_by(self, other: RowTable) -> RowTable:
        """The rows of both, of the same length; those of the other are numbered behind these."""
        found = copy.copy(self)
        found._tokens, found._words = self._tokens + other._tokens, self._words + other._words
        found._lengths = np.concatenate([self._lengths, other._lengths])
        found._ends = np.concatenate([self._ends, len(self._lengths) + other._ends])
        return found

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices`, as an array of shape [len(indices), max_length], int32."""
        found = np.empty((len(indices), self.max_length), np.int32)
        self._tokens.fill(found, indices)
        return found

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each window of the rows at `indices`, row after row; and how many chunks each row has."""
        starts = np.where(indices > 0, self._ends[indices - 1], 0)
        counts = self._ends[indices] - starts
        return self._lengths[np.repeat(starts, counts) + _ranks(counts)], counts

    def words(self, indices: np.ndarray) -> np.ndarray:
        """Which tokens of the rows at `indices` begin a word: [len(indices), max_length], booleans."""
        assert len(self._words) == len(self), "prepared without masking.unit"
        packed = np.empty((len(indices), -(-self.max_length // 8)), np.uint8)
        self._words.fill(packed, indices)
        return np.unpackbits(packed, axis=1, count=self.max_length).view(bool)


class _Pieces:
    """Arrays that are read as if they were one.

    Args:
        pieces: Arrays of equal width.
    """

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *map(len, pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __add__(self, other: _Pieces) -> _Pieces:
        return _Pieces([*self._pieces, *other._pieces])

    def fill(self, found: np.ndarray, indices: np.ndarray) -> None:
        """Put what stands at `indices` into `found`."""
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for piece in np.unique(places):
            here = places == piece
            found[here] = self._pieces[piece][indices[here] - self._starts[piece]]


def _ranks(lengths: np.ndarray) -> np.ndarray:
    """For each token its place in its own document: [0, 1, 2, 0, 1, ...]."""
    starts = np.cumsum(lengths) - lengths
    ranks: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return ranks
