"""Rows on disk: Arrow files that `datasets` reads, and the table of a split.

A file consists of blocks of rows. A list says where the arrays of each block are, so that a table of any size is opened
without reading its files. Processes of a machine share the pages that they read.
"""

from __future__ import annotations

import hashlib
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
        stop: Bytes before the end of the block, which begins with the tokens.
    """

    rows: int
    tokens: int
    chunks: int
    lengths: int
    stop: int


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
            stop = at[-1] + np.dtype(np.int32).itemsize * len(batch.column("lengths").values)
            if at != sorted(at) or not 0 <= at[0] < stop <= content.size:
                raise ValueError(f"{path}: rows are not stored as they are read")
            found.append(Block(len(batch), at[0], at[1], at[2], stop))
    return found


def hashes_of(path: Path, blocks: Iterable[Block]) -> list[str]:
    """SHA-256 of the bytes of each block of a file, in hexadecimal."""
    content = memoryview(mapped(path))
    return [hashlib.sha256(content[block.tokens : block.stop]).hexdigest() for block in blocks]


def joined(files: Sequence[Iterable[Sequence[int]]]) -> np.ndarray:
    """The blocks of several files as the list of a table.

    Args:
        files: The blocks of each file.

    Returns:
        [6, blocks], int64: file of each block, rows of the table up to its end, and its offsets as in `Block`.
    """
    blocks = [(file, *block) for file, some in enumerate(files) for block in some]
    table = np.array(blocks, np.int64).reshape(-1, 6).T.copy()
    table[1] = np.cumsum(table[1])
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

    Attributes:
        files: Their files.
        groups: [rows, 2] of pairs, what those of one document and of its near-duplicates have in common, and what only
            those of the headings of one document have in common, 0 for others; None for other rows.
    """

    def __init__(
        self,
        files: Sequence[Path],
        blocks: np.ndarray,
        max_length: int,
        counts: RowCounts,
        word_starts: Sequence[Path] = (),
    ) -> None:
        self.files, self._word_starts = files, word_starts
        self._file_of, self._stops, *self._offsets, self._ends = blocks
        self.max_length, self.counts = max_length, counts
        self.groups: np.ndarray | None = None
        self._mapped: dict[int, Any] = {}
        self._mapped_starts: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    @property
    def block_sizes(self) -> np.ndarray:
        """[blocks] rows of each block."""
        return np.diff(self._stops, prepend=0)

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
            packed[here] = self._starts_in(block)[within]
        return np.unpackbits(packed, axis=1, count=self.max_length).view(bool)

    def _blocks(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each block that has some of the rows: its number, which of `indices` they are, and where they are in it."""
        block_of = self._block_of(indices)
        order = np.argsort(block_of, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(block_of[order])) + 1):
            if len(here):
                block = int(block_of[here[0]])
                yield block, here, indices[here] - self._start(block)

    def _block_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._stops, indices, side="right")

    def _start(self, block: int) -> int:
        """The rows before a block."""
        return int(self._stops[block - 1]) if block else 0

    def _num_rows(self, block: int) -> int:
        return int(self._stops[block]) - self._start(block)

    def _first_of_file(self, block: int) -> int:
        """The first block of the file that a block is in."""
        return int(np.searchsorted(self._file_of, self._file_of[block]))

    def _array(self, block: int, which: int, count: int) -> np.ndarray:
        """So many int32 of an array of a block: 0 for tokens, 1 for chunks, 2 for lengths."""
        content, first = self._content(block)
        return np.frombuffer(content, np.int32, count, int(self._offsets[which][block]) - first)

    def _content(self, block: int) -> tuple[Any, int]:
        """A buffer that holds a block, and the bytes of the block's file before the buffer."""
        file = int(self._file_of[block])
        if file not in self._mapped:
            self._mapped[file] = mapped(self.files[file])
        return self._mapped[file], 0

    def _starts_in(self, block: int) -> np.ndarray:
        """[rows, max_length / 8] bytes: the word starts in a block."""
        file = int(self._file_of[block])
        if file not in self._mapped_starts:
            self._mapped_starts[file] = mapped_array(self._word_starts[file])
        first = self._start(block) - self._start(self._first_of_file(block))
        return self._mapped_starts[file][first : first + self._num_rows(block)]
