"""Rows on disk: Arrow files that `datasets` reads, and the table of a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.packing import RowBlock, ranges
from mlm_dist.files import write_whole


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
    """The rows in a file that `write` wrote."""
    import pyarrow as pa

    return RowTable(pa.ipc.open_stream(pa.memory_map(str(path))).read_all(), max_length)


def is_plain(path: Path) -> bool:
    """Whether a file of rows is as large as its rows, as `write` leaves it: a compressed one could fill the memory."""
    import pyarrow as pa

    left = path.stat().st_size
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            left -= batch.get_total_buffer_size()
            if left < 0:
                return False
    return True


def features(max_length: int):  # type: ignore[no-untyped-def]  # datasets is imported late because it takes a second
    """The columns of a table of rows: input_ids, padded at the end, and the lengths of each row's chunks."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value("int32"), length=max_length), "lengths": Sequence(Value("int32"))})


class RowTable:
    """The rows of one split. Tokens stay on the disk, memory-mapped.

    Args:
        table: An Arrow table with the columns of `features`.
        max_length: Tokens per row.
        word_starts: Blocks of rows as `word_starts.read` returns them; empty if they are not stored.
    """

    def __init__(self, table: Any, max_length: int, word_starts: Sequence[np.ndarray] = ()) -> None:
        arrays = [array for array in table.column("input_ids").chunks if len(array)]
        # Views on the mapped file of shape [rows, max_length]; nothing is copied.
        self._tokens = _Blocks([array.flatten().to_numpy().reshape(-1, max_length) for array in arrays])
        self._word_starts = _Blocks(word_starts)
        lengths = table.column("lengths").combine_chunks()
        self._lengths: np.ndarray = lengths.flatten().to_numpy()
        self._ends: np.ndarray = np.cumsum(lengths.value_lengths().to_numpy(), dtype=np.int64)
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self._tokens)

    def num_tokens(self, rows: range) -> int:
        """Tokens of some rows that are not padding, special tokens included."""
        first, last = (int(self._ends[i - 1]) if i else 0 for i in (rows.start, rows.stop))
        return int(self._lengths[first:last].sum(dtype=np.int64))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices`, [len(indices), max_length], int32."""
        rows = np.empty((len(indices), self.max_length), np.int32)
        self._tokens.take(indices, out=rows)
        return rows

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of each chunk of the rows at `indices`, row after row, and the number of chunks in each row."""
        starts = np.where(indices > 0, self._ends[indices - 1], 0)
        counts = self._ends[indices] - starts
        return self._lengths[np.repeat(starts, counts) + ranges(counts)], counts

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """Which tokens of the rows at `indices` begin a word: [len(indices), max_length], booleans."""
        assert len(self._word_starts) == len(self), "prepared without masking.unit"
        packed = np.empty((len(indices), -(-self.max_length // 8)), np.uint8)
        self._word_starts.take(indices, out=packed)
        return np.unpackbits(packed, axis=1, count=self.max_length).view(bool)


class _Blocks:
    """Arrays of equal width that are read as one, along their first dimension."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copy the rows at `indices` into `out`."""
        block_of = np.searchsorted(self._starts, indices, side="right") - 1
        for block in np.unique(block_of):
            here = block_of == block
            out[here] = self._arrays[block][indices[here] - self._starts[block]]
