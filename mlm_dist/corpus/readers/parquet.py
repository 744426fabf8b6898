"""Parquet files with a text column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, record, too_large

BUFFER_BYTES = 1 << 18
MAX_ROWS, MAX_BYTES = 256, 16 << 20  # decoded at a time: the smaller of both, and at least one row


class ParquetReader(RecordsReader):
    """Reads the column `text`; a part is a range of row groups."""

    def count_units(self, path: Path) -> int | None:
        """The number of row groups; 0 if the file cannot be read, which `read` reports."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                return int(file.num_row_groups)
        except (pa.ArrowException, OSError):
            return 0

    def parts(self, name: str, size: int, units: int | None) -> Iterator[tuple[Part, int]]:
        """See `Reader`."""
        if not units:
            yield Part(name, 0, 0), size
        for i in range(units or 0):
            yield Part(name, i, i + 1), max(size // (units or 1), 1)

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        max_bytes = settings.max_bytes
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
            if "text" not in file.schema_arrow.names:
                yield Dropped(part.path, "no 'text' column")
                return
            for group in range(part.start, part.stop):
                i = 0
                for batch in file.iter_batches(_batch_rows(file, group), row_groups=[group], columns=["text"]):
                    for cell in batch.column(0):
                        id_ = f"{part.path}#{group}.{i}"
                        is_text = isinstance(cell, pa.BinaryScalar) and cell.is_valid
                        # The size is checked before the cell becomes a Python string.
                        if is_text and cell.as_buffer().size > max_bytes:
                            yield too_large(id_, max_bytes)
                        else:
                            yield record(id_, cell.as_py(), settings)
                        i += 1
        except pa.ArrowException:
            yield Dropped(part.path, "not a parquet file")


def _batch_rows(file: Any, group: int) -> int:
    """How many rows of a group to decode at a time, by the average size of its texts."""
    metadata = file.metadata.row_group(group)
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] == "text")
    return int(min(max(MAX_BYTES * metadata.num_rows // max(size, 1), 1), MAX_ROWS))
