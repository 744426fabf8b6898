"""Rows on disk: Arrow files that `datasets` reads, and the table of a split.

A file consists of blocks of rows. A list says where the arrays of each block are, so that a table of any size is opened
without reading its files. Processes of a machine share the pages that they read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.corpus.packing import RowBlock
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.files import mapped, mapped_array, write_whole


class Block(NamedTuple):
    """A block of rows in a file.

    Args:
        rows: Number of rows.
        tokens: Bytes of the file before the tokens: [rows, max_length], int32.
        chunks: Bytes before the number of chunks before each row: [rows + 1], int32.
        lengths: Bytes before the tokens of each chunk: [chunks], int32.
    """

    rows: int
    tokens: int
    chunks: int
    lengths: int


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


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a file that `write` wrote, without those that have no rows.

    Raises:
        ValueError: It is no such file; its rows may be compressed, and would fill the memory.
    """
    import pyarrow as pa

    content, found = mapped(path), []
    with pa.ipc.open_stream(content) as batches:
        for batch in filter(len, batches):
            tokens = batch.column("input_ids").buffers()[-1]
            _, chunks, _, lengths = batch.column("lengths").buffers()
            at = [buffer.address - content.address for buffer in (tokens, chunks, lengths)]
            if not 0 <= min(at) <= max(at) < content.size:
                raise ValueError(f"{path}: rows are not stored as they are read")
            found.append(Block(len(batch), *at))
    return found


def joined(files: Sequence[Iterable[Sequence[int]]]) -> np.ndarray:
    """The blocks of several files as the list of a table.

    Args:
        files: The blocks of each file.

    Returns:
        [5, blocks], int64: file of each block, rows of the table up to its end, and its offsets as in `Block`.
    """
    blocks = [(file, *block) for file, some in enumerate(files) for block in some]
    table = np.array(blocks, np.int64).reshape(-1, 5).T.copy()
    table[1] = np.cumsum(table[1])
    return table


def read(path: Path, max_length: int) -> RowTable:
    """The rows in a file that `write` wrote."""
    table = RowTable([path], joined([blocks_of(path)]), max_length, RowCounts())
    table.counts = RowCounts.of(*table.chunks(np.arange(len(table))))
    return table


def features(max_length: int):  # type: ignore[no-untyped-def]  # datasets is imported late because it takes a second
    """The columns of a table of rows: input_ids, padded at the end, and the lengths of each row's chunks."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value("int32"), length=max_length), "lengths": Sequence(Value("int32"))})


class RowTable:
    """The rows of one split. They stay on the disk, memory-mapped; a file is opened when one of its rows is read.

    Args:
        files: Their files.
        blocks: What `joined` returned of these.
        max_length: Tokens per row.
        counts: Counts of the rows.
        word_starts: Files of the word starts in each file, see `word_starts.write`; empty if they are not stored.
    """

    def __init__(
        self,
        files: Sequence[Path],
        blocks: np.ndarray,
        max_length: int,
        counts: RowCounts,
        word_starts: Sequence[Path] = (),
    ) -> None:
        self._files, self._word_starts = files, word_starts
        self._file_of, self._stops, *self._offsets = blocks
        self.max_length, self.counts = max_length, counts
        self._mapped: dict[int, Any] = {}
        self._mapped_starts: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices`, [len(indices), max_length], int32."""
        rows = np.empty((len(indices), self.max_length), np.int32)
        for block, here, within in self._blocks(indices):
            tokens = self._array(block, 0, self._num_rows(block) * self.max_length)
            rows[here] = tokens.reshape(-1, self.max_length)[within]
        return rows

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of each chunk of the rows at `indices`, row after row, and the number of chunks in each row."""
        found = [np.empty(0, np.int32)] * len(indices)
        for block, here, within in self._blocks(indices):
            before = self._array(block, 1, self._num_rows(block) + 1)
            first, last = before[within], before[within + 1]
            lengths = self._array(block, 2, int(last.max()))
            for i, start, stop in zip(here.tolist(), first.tolist(), last.tolist(), strict=True):
                found[i] = lengths[start:stop]
        return np.concatenate([np.empty(0, np.int32), *found]), np.fromiter(map(len, found), np.int64, len(found))

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """Which tokens of the rows at `indices` begin a word: [len(indices), max_length], booleans."""
        assert self._word_starts, "prepared without masking.unit"
        packed = np.empty((len(indices), -(-self.max_length // 8)), np.uint8)
        for block, here, within in self._blocks(indices):
            file = int(self._file_of[block])
            first = int(np.searchsorted(self._file_of, file))
            if file not in self._mapped_starts:
                self._mapped_starts[file] = mapped_array(self._word_starts[file])
            packed[here] = self._mapped_starts[file][within + self._start(block) - self._start(first)]
        return np.unpackbits(packed, axis=1, count=self.max_length).view(bool)

    def _blocks(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each block that has some of the rows: its number, which of `indices` they are, and where they are in it."""
        block_of = np.searchsorted(self._stops, indices, side="right")
        order = np.argsort(block_of, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(block_of[order])) + 1):
            if len(here):
                block = int(block_of[here[0]])
                yield block, here, indices[here] - self._start(block)

    def _start(self, block: int) -> int:
        """The rows before a block."""
        return int(self._stops[block - 1]) if block else 0

    def _num_rows(self, block: int) -> int:
        return int(self._stops[block]) - self._start(block)

    def _array(self, block: int, which: int, count: int) -> np.ndarray:
        """So many int32 of an array of a block, in its file: 0 for tokens, 1 for chunks, 2 for lengths."""
        file = int(self._file_of[block])
        if file not in self._mapped:
            self._mapped[file] = mapped(self._files[file])
        return np.frombuffer(self._mapped[file], np.int32, count, int(self._offsets[which][block]))
